"""metrics.jsonl: every report once, also after crashes and resumes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwafer.base import InputError
from openwafer.train.report import EvalReport, Metrics, StepReport, read_metrics
from openwafer.train.report._metrics import MetricsFile, decode, encode

numbers = st.floats(width=64)
named = st.dictionaries(st.text(max_size=8), numbers, max_size=3)
counts = st.integers(0, 2**53)
steps = st.builds(
    StepReport,
    step=counts,
    loss=numbers,
    metrics=named,
    logs=named,
    samples=counts,
    tokens=st.none() | counts,
    seconds=numbers,
)
evals = st.builds(EvalReport, step=counts, loss=numbers, metrics=named, samples=counts, seconds=numbers)


def step(number, loss=1.0):
    return StepReport(step=number, loss=loss, samples=4, seconds=0.5)


def evaluation(number):
    return EvalReport(step=number, loss=2.0, samples=4, seconds=0.5)


def write(path, *reports, start_step=0):
    file = MetricsFile(path, start_step)
    for report in reports:
        file.write(report)
    file.close()


@given(steps | evals)
def test_a_report_comes_back_exactly_from_a_line_of_strict_json(report):
    """Nothing is rounded, and no reader of JSON stumbles over NaN or infinity."""
    line = encode(report)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(line, parse_constant=refuse)
    assert line.count(b"\n") == 1
    assert repr(decode(line)) == repr(report)  # repr, because nan != nan


def test_reports_are_read_in_order_and_apart(tmp_path):
    """A user plots `[r.loss for r in metrics.train]`."""
    write(tmp_path / "m", evaluation(0), step(1, 3.0), step(2, math.nan), evaluation(2))

    metrics = read_metrics(tmp_path / "m")

    assert [r.step for r in metrics.train] == [1, 2]
    assert metrics.train[0].loss == 3.0
    assert math.isnan(metrics.train[1].loss)
    assert [r.step for r in metrics.eval] == [0, 2]


def test_each_line_is_on_disk_when_write_returns(tmp_path):
    """A killed process loses no step that it reported."""
    file = MetricsFile(tmp_path / "m", 0)
    file.write(step(1))

    assert len(read_metrics(tmp_path / "m").train) == 1
    file.close()


@pytest.mark.parametrize("cut", range(1, len(encode(step(3)))))
def test_a_torn_last_line_is_left_out(tmp_path, cut):
    """A process may be killed after any byte; only without its newline alone is a line still whole."""
    write(tmp_path / "m", step(1), step(2), step(3))
    data = (tmp_path / "m").read_bytes()
    (tmp_path / "m").write_bytes(data[:-cut])

    assert [r.step for r in read_metrics(tmp_path / "m").train] == ([1, 2, 3] if cut == 1 else [1, 2])


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    """Leaving it out silently would bend the loss curve."""
    (tmp_path / "m").write_bytes(encode(step(1)) + b'{"kind": "tra\n' + encode(step(3)))

    with pytest.raises(InputError, match="m:2: not a report"):
        read_metrics(tmp_path / "m")


def test_a_line_of_another_kind_is_named(tmp_path):
    """The file holds reports; anything else was put there by mistake."""
    (tmp_path / "m").write_bytes(b'{"kind": "test", "step": 1}\n' + encode(step(3)))

    with pytest.raises(InputError, match=r"m:1: .*its kind is 'test'"):
        read_metrics(tmp_path / "m")


def test_a_missing_file_is_an_input_error(tmp_path):
    """The error names what to pass instead."""
    with pytest.raises(InputError, match=r"cannot read .*nowhere.*metrics\.jsonl"):
        read_metrics(tmp_path / "nowhere")


def test_a_resumed_run_forgets_what_came_after_its_start(tmp_path):
    """Steps 3 and 4 ran after the checkpoint of step 2 and run again; the torn line goes too."""
    write(tmp_path / "m", *(step(n, 1.0) for n in (1, 2)), evaluation(2), step(3), step(4), evaluation(4))
    with open(tmp_path / "m", "ab") as file:
        file.write(encode(step(5))[:-9])

    write(tmp_path / "m", step(3, 7.0), start_step=2)

    lines = (tmp_path / "m").read_bytes().splitlines()
    assert [(json.loads(line)["kind"], json.loads(line)["step"]) for line in lines] == [
        ("train", 1),
        ("train", 2),
        ("eval", 2),
        ("train", 3),
    ]
    assert read_metrics(tmp_path / "m").train[-1].loss == 7.0


def test_a_line_that_lost_only_its_newline_is_kept_apart_from_the_next(tmp_path):
    """The run was killed between the last brace and the newline; two reports on one line would lose both."""
    (tmp_path / "m").write_bytes(encode(step(1))[:-1])

    write(tmp_path / "m", step(2), start_step=1)

    assert [r.step for r in read_metrics(tmp_path / "m").train] == [1, 2]


def test_a_run_from_the_beginning_keeps_nothing(tmp_path):
    """Also the evaluation before training, at step 0, belongs to the run that is done over."""
    write(tmp_path / "m", evaluation(0), step(1))

    write(tmp_path / "m")

    assert read_metrics(tmp_path / "m") == Metrics((), ())


def test_of_two_evaluations_of_one_step_the_later_counts(tmp_path):
    """A run resumed at step 2 evaluates there once more."""
    write(tmp_path / "m", evaluation(2), EvalReport(step=2, loss=5.0, samples=1, seconds=1))

    assert [r.loss for r in read_metrics(tmp_path / "m").eval] == [5.0]
