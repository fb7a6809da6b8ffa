"""What a native job runs, where a start is not the job's first, or its hosts do not come."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import typer
from counted_job import RECIPE

from openwafer.appliance import TRY_AGAIN
from openwafer.cli import _train_job
from openwafer.cli._train_job import REQUEST, TrainRequest, train_job
from openwafer.train.report import read_metrics


@pytest.fixture
def request_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of a job of two steps, which tells of itself in a folder."""
    monkeypatch.setenv("OPENWAFER_JOB", str(tmp_path))
    (tmp_path / RECIPE.name).write_bytes(RECIPE.read_bytes())
    file = tmp_path / REQUEST
    file.write_bytes(msgspec.json.encode(TrainRequest(recipe=RECIPE.name, arguments=["steps=2"])))
    return file


def test_a_job_that_was_lost_after_its_last_step_has_succeeded(request_file: Path, tmp_path: Path) -> None:
    """Its host was cut off, or it was killed, before anybody heard that it was done; nothing is left for another start."""
    for _ in range(2):
        train_job(request_file, 1, "ram", 1, tmp_path / "run")

    events = [msgspec.json.decode(line) for line in (tmp_path / "events.jsonl").read_bytes().splitlines()]
    results = [event["status"] for event in events if event["kind"] == "result"]
    assert results == ["succeeded", "succeeded"]
    assert [report.step for report in read_metrics(tmp_path / "run" / "metrics.jsonl").train] == [1, 2]


def test_a_job_whose_hosts_do_not_come_asks_for_another_start(
    request_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may have been cut off since they were chosen; the next start chooses among those that are there."""
    monkeypatch.setattr(_train_job, "_JOIN_S", 0.2)
    token = tmp_path / "token"

    with pytest.raises(typer.Exit) as left:
        train_job(request_file, 1, "ram", 1, tmp_path / "run", hosts=1, port=0, token_file=token)

    assert left.value.exit_code == TRY_AGAIN
    assert "0 of 1 hosts joined" in capsys.readouterr().err
    assert not (tmp_path / "events.jsonl").exists()  # a result would be the job's end
