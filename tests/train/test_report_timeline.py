"""Timeline: overlap by interval arithmetic, and a trace that other tools read."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwafer.base import InputError
from openwafer.train.report import Timeline

CELLS = 40
kinds = st.sampled_from(["forward x", "update", "wait weights", "sync", "waiting"])
cells = st.tuples(st.integers(0, CELLS), st.integers(0, CELLS)).map(sorted)
lane_spans = st.lists(st.tuples(kinds, cells), max_size=12)


def busy_cells(spans):
    """The unit cells that a lane is busy in, one by one."""
    return {cell for name, (start, end) in spans if name.split()[0] != "wait" for cell in range(start, end)}


@given(lane_spans, lane_spans)
def test_overlap_is_what_counting_cell_by_cell_gives(spans_a, spans_b):
    """On whole seconds, the interval arithmetic has a brute-force twin. Spans of a lane may overlap."""
    timeline = Timeline()
    for lane, spans in (("a", spans_a), ("b", spans_b)):
        for name, (start, end) in spans:
            timeline.add(lane, name, start, end)
    cells_a, cells_b = busy_cells(spans_a), busy_cells(spans_b)

    expected = len(cells_a & cells_b) / len(cells_a) if cells_a else 0
    assert timeline.overlap("a", "b") == pytest.approx(expected)
    assert timeline.overlap("a", "a") == (1 if cells_a else 0)


def test_waiting_is_not_busy():
    """A system that waits for weights all the time overlaps with nothing."""
    timeline = Timeline()
    timeline.add("system0", "wait weights", 0, 3)
    timeline.add("system0", "forward l0", 3, 4)
    timeline.add("memoryx stream", "read l0", 0, 3.5)

    assert timeline.overlap("system0", "memoryx stream") == 0.5
    assert timeline.overlap("memoryx stream", "system0") == pytest.approx(0.5 / 3.5)
    assert timeline.overlap("nobody", "system0") == 0


def test_lanes_are_in_the_order_of_their_numbers():
    """system10 stands below system2, and the systems above the service that feeds them."""
    timeline = Timeline()
    for lane in ("input0", "memoryx write", "system10", "memoryx stream", "system2", "system2"):
        timeline.add(lane, "x", 0, 1)

    assert timeline.lanes() == ["system2", "system10", "memoryx stream", "memoryx write", "input0"]


def test_spans_of_the_roles_are_taken_as_they_are():
    """Anything with lane, name, start_s and end_s will do: the package below need not be imported."""
    timeline = Timeline()
    timeline.extend([SimpleNamespace(lane="system0", name="forward a", start_s=1.0, end_s=2.0)])

    assert timeline.spans == (("system0", "forward a", 1.0, 2.0),)


@pytest.mark.parametrize(("start", "end"), [(2, 1), (0, math.inf), (math.nan, 1)])
def test_a_span_that_cannot_be_is_refused(start, end):
    """It would come from two clocks, and bend every picture."""
    with pytest.raises(InputError, match=r"'forward a' on lane 'system0'.*one clock"):
        Timeline().add("system0", "forward a", start, end)


def test_the_trace_has_named_lanes_and_microseconds(tmp_path):
    """As the Trace Event Format wants it: complete events, metadata names, times in microseconds."""
    timeline = Timeline()
    timeline.add("memoryx stream", "read l0", 100.0, 100.25)
    timeline.add("memoryx update", "update l0", 100.5, 101.0)
    timeline.add("system0", "forward l0 [0]", 100.25, 100.5)
    timeline.mark_step(7, 100.25)
    timeline.write_trace(tmp_path / "t.json")

    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    process = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    thread = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    complete = [
        (process[e["pid"]], thread[e["pid"], e["tid"]], e["name"], e["cat"], e["ts"], e["dur"])
        for e in events
        if e["ph"] == "X"
    ]
    assert complete == [
        ("memoryx", "stream", "read l0", "read", 0.0, 250_000.0),
        ("memoryx", "update", "update l0", "update", 500_000.0, 500_000.0),
        ("system0", "system0", "forward l0 [0]", "forward", 250_000.0, 250_000.0),
    ]
    assert [(e["name"], e["ts"]) for e in events if e["ph"] == "i"] == [("step 7", 250_000.0)]
    assert {e["ph"] for e in events} == {"M", "X", "i"}


def test_an_empty_timeline_is_an_empty_trace(tmp_path):
    """A run whose first step failed still leaves files that open."""
    Timeline().write_trace(tmp_path / "t.json")

    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"] == []
