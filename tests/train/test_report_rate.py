"""RateTracker against numbers worked out by hand, and durations as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwafer.train.report import RateTracker
from openwafer.train.report._rate import format_duration


class Clock:
    """Seconds that pass when the test says so."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_rates_are_those_worked_out_by_hand(clock):
    """Laps of 10, 20 and 5 samples/s: 10; 0.6 * 20 + 0.4 * 10 = 16; 0.6 * 5 + 0.4 * 16 = 9.4."""
    tracker = RateTracker(clock)
    smoothed, overall = [], []

    for seconds, samples in ((4, 40), (2, 40), (4, 20)):
        clock.now += seconds
        tracker.add(samples)
        smoothed.append(tracker.lap())
        overall.append(tracker.global_rate)

    assert smoothed == pytest.approx([10, 16, 9.4])
    assert overall == pytest.approx([40 / 4, 80 / 6, 100 / 10])


def test_a_lap_counts_every_step_since_the_last_one(clock):
    """Lines come every few steps, the rate is of all of them."""
    tracker = RateTracker(clock)

    for _ in range(5):
        clock.now += 0.5
        tracker.add(8)

    assert tracker.lap() == pytest.approx(16)


def test_evaluation_stays_out_of_the_rate_but_not_out_of_the_global_rate(clock):
    """Rate says how fast training is, GlobalRate how far the run gets in a day."""
    tracker = RateTracker(clock)
    clock.now += 2
    tracker.add(20)
    clock.now += 8
    tracker.skip(8)

    assert tracker.lap() == pytest.approx(10)
    assert tracker.global_rate == pytest.approx(2)


def test_start_forgets_the_time_before_training(clock):
    """Compiling takes minutes that say nothing about the rate."""
    tracker = RateTracker(clock)
    clock.now += 300
    tracker.start()
    clock.now += 1
    tracker.add(7)

    assert tracker.lap() == tracker.global_rate == pytest.approx(7)


def test_no_time_is_no_rate_and_loses_no_samples(clock):
    """Two lines within one tick of the clock must not divide by zero."""
    tracker = RateTracker(clock)
    tracker.add(3)
    assert tracker.lap() == 0
    assert tracker.seconds_for(10) == math.inf

    clock.now += 1
    assert tracker.lap() == pytest.approx(3)
    assert tracker.seconds_for(12) == pytest.approx(4)
    assert tracker.seconds_for(0) == 0


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 1000)), min_size=1, max_size=20))
def test_the_rate_lies_between_the_slowest_and_the_fastest_lap(laps):
    """Smoothing weighs rates that occurred; it cannot invent one outside them."""
    clock = Clock()
    tracker = RateTracker(clock)
    rates = []
    for seconds, samples in laps:
        before = clock.now
        clock.now += seconds
        tracker.add(samples)
        tracker.lap()
        rates.append(samples / (clock.now - before))

    assert min(rates) * (1 - 1e-9) <= tracker.rate <= max(rates) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (40, "0:00:40"),
        (59.6, "0:01:00"),
        (3725, "1:02:05"),
        (90000, "25:00:00"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_durations_are_hours_minutes_and_seconds(seconds, text):
    """Hours run past 24: a comma, as in `1 day, 1:00:00`, would end the field of the log line."""
    assert format_duration(seconds) == text
