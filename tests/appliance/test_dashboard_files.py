"""What the dashboard reads of a job's files: series, history, plan and timeline, while the job writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from openwafer.appliance.dashboard import read_timeline
from openwafer.appliance.dashboard._history import History
from openwafer.appliance.dashboard._plan import Plans
from openwafer.appliance.dashboard._series import Series
from openwafer.appliance.dashboard._tail import Tails
from openwafer.base import InputError


def train(step: int, loss: object = 1.0, **more: object) -> bytes:
    return json.dumps(
        {"kind": "train", "step": step, "loss": loss, "samples": 4, "seconds": 0.5, **more}
    ).encode()


def test_a_long_run_fits_into_a_picture_and_keeps_its_extremes() -> None:
    """A spike of one step among 100,000 is what somebody looks for, so buckets carry their least and largest loss."""
    series = Series()
    for step in range(1, 100_001):
        series.add(train(step, 9.0 if step == 70_000 else 1.0))

    points = series.points(400)

    assert 200 <= len(points) <= 400
    assert (points[0].first, points[-1].last, series.step) == (1, 100_000, 100_000)
    assert sum(point.steps for point in points) == 100_000
    assert [point.most for point in points if point.first <= 70_000 <= point.last] == [9.0]
    assert points[0].samples / points[0].seconds == series.samples_per_s == 8.0
    assert series.step_s == 0.5


def test_steps_that_are_done_again_replace_themselves() -> None:
    """A run that recovers goes on from its checkpoint: what it reported after that is no longer true."""
    series = Series()
    for step in (1, 2, 3, 4, 5, 3):
        series.add(train(step, float(step)))

    assert [point.first for point in series.points(10)] == [1, 2, 3]
    assert series.step == 3


def test_lines_that_are_no_numbers_of_a_run_are_passed_over() -> None:
    """The file is the job's: whatever stands there, the page goes on."""
    series = Series()
    for line in (b"", b"{", b"[]", b"7", b'{"kind":"train"}', b'{"kind":"train","step":true,"loss":1}',
                 b'{"kind":"train","step":"1","loss":1}', b'{"kind":"eval","step":1,"loss":"nan"}',
                 b'{"kind":"progress","step":-4}', b'\xff\xfe', b'{"kind":"train","step":1e400}'):  # fmt: skip
        series.add(line)
    assert series.points(10) == []
    assert series.step == 0

    series.add(train(1, "nan", metrics={"a": 1, "b": "inf", "c": None}))
    assert (series.step, series.loss, series.values) == (1, None, {"a": 1.0})


def test_a_clients_job_is_read_from_its_progress_events() -> None:
    """It has no run folder of ours."""
    series = Series()
    for step in (1, 2):
        event = {"at": 1.0, "kind": "progress", "step": step, "steps": 10, "loss": 2.5, "samples_per_s": 30.0}
        series.add(json.dumps(event).encode())

    assert (series.step, series.steps, series.loss, series.samples_per_s) == (2, 10, 2.5, 30.0)


def test_a_file_that_grows_is_read_once_and_one_that_was_replaced_anew(tmp_path: Path) -> None:
    """A page asks every two seconds; a recovered run rewrites its metrics."""
    tails: Tails[Series] = Tails(Series)
    file = tmp_path / "metrics.jsonl"
    assert tails.look(file).step == 0
    file.write_bytes(train(1) + b"\n" + train(2)[:9])
    first = tails.look(file)
    assert first.step == 1
    with file.open("ab") as more:
        more.write(train(2)[9:] + b"\n")
    assert tails.look(file) is first
    assert first.step == 2

    other = tmp_path / "other"
    other.write_bytes(train(1) + b"\n")
    os.replace(other, file)
    assert tails.look(file).step == 1


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    """A job could put a pipe there, and every look would wait for it for ever, or a link to what is not the job's."""
    (tmp_path / "secret").write_bytes(train(1) + b"\n")
    place = tmp_path / "metrics.jsonl"
    {
        "pipe": lambda: os.mkfifo(place),
        "link": lambda: place.symlink_to(tmp_path / "secret"),
        "folder": lambda: place.mkdir(),
    }[kind]()

    assert Tails(Series).look(place).step == 0
    assert read_timeline(place) is None
    assert Plans().of(place) is None


def test_a_history_holds_what_happened_and_leaves_progress_out() -> None:
    """Thousands of progress events would hide the restart that matters."""
    history = History()
    for event in (
        {"at": 1.0, "kind": "state", "state": "queued", "message": "submitted", "by": "node"},
        *({"at": 2.0, "kind": "progress", "step": step} for step in range(1000)),
        {"at": 3.0, "kind": "state", "state": "running"},
        {"at": 4.0, "kind": "waiting", "for": "input"},
        {"at": 5.0, "kind": "result", "status": "failed", "message": "no disk"},
        {"at": "never", "kind": "result"},
    ):
        history.add(json.dumps(event).encode())

    assert [(m.at, m.kind, m.text, m.by) for m in history.moments] == [
        (1.0, "state", "queued: submitted", "node"),
        (4.0, "waiting", "input", "job"),
        (5.0, "result", "failed: no disk", "job"),
    ]


def trace(spans: list[tuple[int, str, str, float, float]], steps: dict[int, float]) -> bytes:
    names = {1: "system0", 2: "memoryx update"}
    events: list[dict[str, object]] = []
    for lane, name in names.items():
        role, _, rest = name.partition(" ")
        events.append({"name": "process_name", "ph": "M", "pid": lane, "tid": 0, "args": {"name": role}})
        events.append(
            {"name": "thread_name", "ph": "M", "pid": lane, "tid": lane, "args": {"name": rest or role}}
        )
    events += [
        {"name": f"step {n}", "ph": "i", "s": "g", "pid": 1, "tid": 1, "ts": at} for n, at in steps.items()
    ]
    events += [
        {"name": name, "cat": kind, "ph": "X", "pid": lane, "tid": lane, "ts": start, "dur": length}
        for lane, name, kind, start, length in spans
    ]
    return json.dumps({"traceEvents": events}).encode()


def test_a_timeline_shows_the_last_two_steps_and_how_busy_each_lane_was(tmp_path: Path) -> None:
    """The first step compiles and allocates; what repeats is what one wants to see. Waiting is not busy."""
    file = tmp_path / "timeline.json"
    spans = [
        (1, "forward block", "forward", 0.0, 90.0),
        (1, "forward block", "forward", 100.0, 50.0),
        (1, "wait weights", "wait", 150.0, 50.0),
        (1, "backward block", "backward", 200.0, 100.0),
        (2, "update block", "update", 180.0, 20.0),
    ]
    file.write_bytes(trace(spans, {1: 0.0, 2: 100.0, 3: 200.0}))

    view = read_timeline(file)

    assert view is not None
    assert (view.length_us, view.steps) == (200.0, [(2, 0.0), (3, 100.0)])
    assert [(lane.name, lane.busy) for lane in view.lanes] == [("system0", 0.75), ("memoryx update", 0.1)]
    first = view.lanes[0].spans[0]
    assert (*first[:2], view.kinds[first[2]], view.names[first[3]]) == (0.0, 50.0, "forward", "forward block")


def test_a_timeline_of_a_hundred_thousand_spans_is_cut_to_what_can_be_seen(tmp_path: Path) -> None:
    """Many spans that are shorter than a pixel become one."""
    file = tmp_path / "timeline.json"
    file.write_bytes(trace([(1, "forward", "forward", float(i), 0.9) for i in range(100_000)], {1: 0.0}))

    view = read_timeline(file)

    assert view is not None
    assert len(view.lanes[0].spans) <= 1500
    assert 0.89 < view.lanes[0].busy < 0.91


def test_a_timeline_that_is_no_trace_is_refused_with_its_name(tmp_path: Path) -> None:
    """The page then says so, and shows the rest."""
    file = tmp_path / "timeline.json"
    file.write_text('{"traceEvents": 3}')

    with pytest.raises(InputError, match=r"run/timeline\.json is no trace"):
        read_timeline(file)
