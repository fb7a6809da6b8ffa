"""`wafer bench serve` as a process that starts another one."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
from service_processes import started, wafer  # type: ignore[import-not-found]


def test_the_command_serves_a_model_measures_it_and_leaves_nothing(tmp_path: Path) -> None:
    """As a user has it: a table, numbers, a picture; the server that was started for it is gone afterwards."""
    rows, picture = tmp_path / "rows.json", tmp_path / "load.png"
    words = ("--demo", "--memory", "2GiB", "--concurrency", "1,3", "--requests", 4, "--answer-tokens", 5)

    done = wafer(
        "bench", "serve", *words, "--out", rows, "--picture", picture, more={"TMPDIR": str(tmp_path)}
    )

    assert done.returncode == 0, done.stderr
    levels = json.loads(rows.read_text())["levels"]
    assert [(level["concurrency"], level["answer_tokens"]) for level in levels] == [(1, 20), (3, 20)]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:3] for line in lines[-2:]] == [["1", "4", "-"], ["3", "4", "-"]]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["load.png", "rows.json"]


def test_ctrl_c_ends_the_server_that_was_started_too(tmp_path: Path) -> None:
    """A terminal sends it to both processes. The rows that are complete are written, and nothing goes on running."""
    told = tmp_path / "told"
    words = ("--demo", "--memory", "2GiB", "--concurrency", "1,2", "--requests", 500, "--answer-tokens", 1000)
    with (
        told.open("w") as errors,
        started("bench", "serve", *words, errors=errors, more={"TMPDIR": str(tmp_path)}) as running,
    ):
        running.until(lambda: "loaded in" in told.read_text(), "the model is loaded")
        others = psutil.Process(running.process.pid).children(recursive=True)
        for process in (running.process, *others):
            process.send_signal(signal.SIGINT)

        assert running.ended() == 130
    assert "interrupted" in told.read_text()
    assert "Traceback" not in told.read_text()
    assert psutil.wait_procs(others, timeout=60)[1] == []
    assert [path.name for path in tmp_path.iterdir()] == ["told"]


def test_the_server_ends_when_the_command_is_killed(tmp_path: Path) -> None:
    """Whoever kills a measurement does not look for a second process."""
    told = tmp_path / "told"
    words = ("--demo", "--memory", "2GiB", "--requests", 500, "--answer-tokens", 1000)
    with (
        told.open("w") as errors,
        started("bench", "serve", *words, errors=errors, more={"TMPDIR": str(tmp_path)}) as running,
    ):
        running.until(lambda: "loaded in" in told.read_text(), "the model is loaded")
        others = psutil.Process(running.process.pid).children(recursive=True)
        running.send(signal.SIGKILL)

        assert psutil.wait_procs(others, timeout=60)[1] == []
    assert "Traceback" not in told.read_text()
