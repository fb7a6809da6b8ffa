"""`wafer cluster`, `wafer submit`, `wafer jobs`, `wafer job`: a recipe through the appliance, as its user sees it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from appliance_cases import wait_until
from rich.console import Console

from openwafer.appliance import JobFolder
from openwafer.cluster.store import list_checkpoints
from openwafer.train import fit_config, load_recipe
from openwafer.train.report import Timeline, _reporter, read_metrics
from wafer_command import Wafer

PACED = Path(__file__).parents[1] / "cli" / "paced.py"


class Shell(Wafer):
    """The command, and what it says of jobs."""

    def job(self, id: str) -> dict[str, Any]:
        """What `wafer job show --json` knows."""
        found: dict[str, Any] = json.loads(self("job", "show", id, "--json").out)
        return found

    def wait(self, id: str, *states: str) -> dict[str, Any]:
        """The job when it is in one of these states."""
        return wait_until(
            lambda: job if (job := self.job(id))["state"] in states else None,
            f"{id} being {' or '.join(states)}",
        )


@pytest.fixture
def wafer(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """The command, for the user whose cluster the fixture `up` brings up."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(_reporter, "loss_picture", lambda *args, **kwargs: None)
    monkeypatch.setattr(Timeline, "write_picture", lambda *args, **kwargs: None)
    monkeypatch.chdir(tmp_path)
    for name in ("WAFER_CLUSTER", "WAFER_CLUSTER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return Shell(monkeypatch, capsys)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user's configuration and state are."""
    return tmp_path_factory.mktemp("home")


@contextmanager
def cluster_up(home: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`wafer cluster up` in a process of its own, once it serves."""
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"),
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "openwafer.cli", "cluster", "up", "--systems", "2", "--port", "0"),
            *options,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "serving at" in line:
                break
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def up(home: Path) -> Iterator[subprocess.Popen[str]]:
    with cluster_up(home) as process:
        yield process


@pytest.mark.usefixtures("up")
def test_a_submitted_recipe_is_trained_as_it_was_when_it_was_submitted(wafer: Shell, tmp_path: Path) -> None:
    """An editor may be open all the time that a job waits. Its losses are those of `wafer train`."""
    recipe = Path(shutil.copy(PACED, tmp_path / "mine.py"))
    recipe.write_text(recipe.read_text() + "\n\nfrom beside import VALUE\n")
    (tmp_path / "beside.py").write_text("VALUE = 1\n")
    submitted = wafer(
        "submit", "mine.py", "steps=12", "--systems", "2", "--label", "team=nlp", "--name", "first"
    )
    assert submitted.status == 0, submitted.err
    id = submitted.out.strip()
    assert re.fullmatch(r"wsjob-[a-z2-7]{12}", id)
    recipe.write_text("this is no Python")
    (tmp_path / "beside.py").unlink()

    followed = wafer("job", "logs", id, "-f")

    assert followed.status == 0, followed.out
    assert "| Train Device=CPU, Step=12, Loss=" in followed.out
    assert "[wafer] succeeded: all steps are done" in followed.out
    job = wafer.job(id)
    assert (job["state"], job["systems"], job["labels"]) == (
        "succeeded",
        ["system-0", "system-1"],
        {"team": "nlp"},
    )
    assert job["spec"]["memoryx_bytes"] == 4 * (36 + 2 * 36)  # weights, and AdamW's two moments
    table = wafer("jobs", "--all", "--label", "team=nlp").out
    assert re.search(rf"{id}\s+first\s+train\s+succeeded\s+p2 299\s+", table)
    assert "no jobs that have not ended" in wafer("jobs").out
    assert "state        succeeded: all steps are done" in wafer("job", "show", id).out
    assert wafer("job", "label", id, "best=yes", "team-").out == f"{id} best=yes\n"
    exported = wafer("job", "export", id, "--to", "all.tar.gz")
    assert exported.status == 0, exported.err
    with tarfile.open(tmp_path / "all.tar.gz") as tar:
        assert {
            f"{id}/log",
            f"{id}/run/metrics.jsonl",
            f"{id}/run/plan.json",
            f"{id}/source/beside.py",
        } <= set(tar.getnames())
        metrics = tar.extractfile(f"{id}/run/metrics.jsonl")
        assert metrics is not None
        (tmp_path / "metrics.jsonl").write_bytes(metrics.read())
    config = load_recipe(PACED, steps=12)
    config = replace(config, folder=str(tmp_path / "run"), cluster=replace(config.cluster, systems=2))
    expected = fit_config(config, console=Console(file=io.StringIO()))
    assert [report.loss for report in read_metrics(tmp_path / "metrics.jsonl").train] == list(expected.losses)


LOADED = """
import sys
from openwafer.cli import main
sys.argv[0] = "wafer"
try:
    main()
finally:
    print(*[name for name in ("torch", "beside", "sqlalchemy", "structlog") if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.usefixtures("up")
def test_a_recipe_that_is_submitted_again_is_not_loaded_until_something_of_it_changes(
    wafer: Shell, tmp_path: Path
) -> None:
    """Who presses return should not wait for torch. What comes of it is the same job; a mistake is told as ever."""
    recipe = Path(shutil.copy(PACED, tmp_path / "again.py"))
    recipe.write_text(
        recipe.read_text().replace('name="paced"', "name=VALUE") + "\nfrom beside import VALUE\n"
    )
    (tmp_path / "beside.py").write_text("VALUE = 'one'\n")

    def submit(*arguments: str) -> tuple[dict[str, Any], str]:
        words = ("submit", "again.py", "steps=1", *arguments)
        ended = subprocess.run([sys.executable, "-c", LOADED, *words], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        spec: dict[str, Any] = wafer.job(ended.stdout.strip())["spec"]
        return spec, ended.stderr.strip()

    loaded, again, another = submit(), submit(), submit("pause=0.01")
    (tmp_path / "beside.py").write_text("VALUE = 'two'\n")
    edited, edited_again, asked = submit(), submit(), submit("--reload")
    recipe.write_text("this is no Python")
    mistaken = wafer("submit", "again.py", "steps=1")

    assert again == (loaded[0], "")
    assert loaded[0]["memoryx_bytes"] == 4 * (36 + 2 * 36)
    assert [said for _, said in (loaded, another, edited, asked)] == ["torch beside"] * 4
    assert [loaded[0]["name"], edited[0]["name"]] == ["one", "two"]
    assert edited_again == (edited[0], "")
    assert mistaken.status == 1
    assert "again.py:1: the recipe failed" in mistaken.err


@pytest.mark.usefixtures("up")
def test_a_compile_job_takes_no_system_and_the_jobs_after_it_find_its_plan(wafer: Shell, home: Path) -> None:
    """So what cannot be planned is told, and the cache filled, while others train. Its plan is shown as any job's."""
    recipe = (str(PACED), "steps=3", "--systems", "2")
    compiled = wafer("submit", *recipe, "--compile-only").out.strip()
    done = wafer.wait(compiled, "succeeded", "failed")
    assert (done["state"], done["reason"], done["systems"]) == ("succeeded", "planned", [])
    assert (done["spec"]["kind"], done["spec"]["compile_slots"]) == ("compile", 1)

    trained = wafer("submit", *recipe).out.strip()
    followed = wafer("job", "logs", trained, "-f")

    assert followed.status == 0, followed.out
    name = re.search(r"\| Plan from the compile cache, (train_\w+)", followed.out)
    assert name is not None
    state = home / "state" / "openwafer"
    shown = state / "jobs" / compiled / "run" / "plan.json"
    assert (state / "compile" / name[1] / "plan.json").read_bytes() == shown.read_bytes()


@pytest.mark.usefixtures("up")
def test_a_cancelled_job_writes_a_checkpoint_and_a_failed_one_says_why(wafer: Shell) -> None:
    """A queue of two: the second waits for the first, and is told so."""
    first = wafer(
        "submit", str(PACED), "steps=400", "pause=0.1", "--systems", "2", "--label", "try=1"
    ).out.strip()
    second = wafer(
        "submit", str(PACED), "steps=9", "fail_at=4", "--priority", "p3", "--restarts", "0"
    ).out.strip()
    wafer.wait(first, "running")
    assert "1 system: 0 of 2 free, first in this queue" in wafer("jobs").out
    status = wafer("cluster", "status").out
    assert re.search(rf"system-0\s+has {first}", status)
    assert "jobs: 1 queued, 1 running" in status
    assert wafer("job", "priority", second, "p1").out == f"{second} p1 199\n"
    cancelled = wafer("job", "cancel", "try=1", "--reason", "a better idea")
    assert f"{first} running: ending: a better idea" in cancelled.out
    done = wafer.wait(first, "cancelled")
    assert done["reason"] == "a better idea"
    assert re.fullmatch(r"checkpoint-[1-9]\d*", done["checkpoint"])
    followed = wafer("job", "logs", second, "--follow")
    assert followed.status == 1
    failed = wafer.job(second)
    assert (failed["state"], failed["exit_status"]) == ("failed", 1)
    assert "the tape broke" in failed["reason"]


@pytest.mark.usefixtures("up")
def test_users_have_tokens_and_see_their_own_jobs(wafer: Shell, tmp_path: Path) -> None:
    """Whoever runs the appliance makes them; the token is shown once."""
    token = wafer("cluster", "user", "add", "bob").out.strip()
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    assert "as bob" in wafer("cluster", "status", "--token-file", str(file)).out
    assert wafer("jobs", "--all", "--token-file", str(file)).out == "no jobs\n"
    assert wafer("cluster", "down", "--token-file", str(file)).status == 1
    assert wafer("cluster", "user", "remove", "bob").status == 0
    refused = wafer("jobs", "--token-file", str(file))
    assert refused.status == 1
    assert "error: the token is nobody's here" in refused.err


MISTAKES = {
    "a recipe that is not there": (["submit", "gtp.py"], "gtp.py is not there"),
    "an argument that the recipe lacks": (["submit", str(PACED), "stepz=3"], "did you mean 'steps'?"),
    "too many systems": (
        ["submit", str(PACED), "--systems", "3"],
        "asks for 3 systems, and this cluster has 2",
    ),
    "no such priority": (["submit", str(PACED), "--priority", "p7"], "'p7' is no priority"),
    "no such label": (["submit", str(PACED), "--label", "nlp"], "'nlp' is no label; write name=value"),
    "no such job": (["job", "show", "wsjob-x"], "there is no job 'wsjob-x'"),
    "nothing to cancel": (["job", "cancel", "a=b"], "no job that has not ended has the label a=b"),
    "no such system": (["cluster", "system", "system-9", "--out", "x"], "there is no system 'system-9'"),
    "another appliance without its token": (["jobs", "--cluster", "http://127.0.0.1:9"], "no token for http"),
    "a job's command by hand": (
        ["train-job", "x", "--systems", "1", "--memoryx", "ram", "--threads", "1", "--folder", "y"],
        "x cannot be read",
    ),
}


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize(("arguments", "text"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_a_sentence_when_it_is_made(wafer: Shell, arguments: list[str], text: str) -> None:
    """Not hours later in a log."""
    ended = wafer(*arguments)
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert text in ended.err.replace("\n", " ")
    assert "Traceback" not in ended.err


def test_jobs_go_on_to_the_same_numbers_when_the_cluster_was_down(wafer: Shell, tmp_path: Path) -> None:
    """`wafer cluster down` ends in a checkpoint, Ctrl-C on `cluster up` does not touch the jobs, the next `up` goes on."""
    home = tmp_path / "home"
    os.environ["XDG_CONFIG_HOME"] = str(home / "config")  # put back by the fixture's monkeypatch
    folder = ("--folder", str(tmp_path / "cluster"))
    with cluster_up(home, *folder) as node:
        id = wafer("submit", str(PACED), "steps=40", "pause=0.1").out.strip()
        wafer.wait(id, "running")
        assert wafer("cluster", "down").out == "going down\n"
        assert node.wait(60) == 0
    refused = wafer("jobs")
    assert refused.status == 1
    assert "no cluster is known: bring one up with `wafer cluster up`" in refused.err
    run = JobFolder(tmp_path / "cluster" / "jobs" / id).run
    assert len(list_checkpoints(run / "checkpoints")) == 2
    with cluster_up(home, *folder) as node:
        wafer.wait(id, "running")
        node.send_signal(signal.SIGINT)
        out, _ = node.communicate(timeout=60)
        assert node.returncode == 130
        assert "1 jobs run on" in out
    with cluster_up(home, *folder) as node:
        job = wafer.wait(id, "succeeded", "failed")
        assert (job["state"], job["starts"], job["restarts"]) == ("succeeded", 2, 0)
    assert "nothing runs any more" in wafer("cluster", "down", *folder).out
    reports = read_metrics(run / "metrics.jsonl").train
    expected = fit_config(
        replace(load_recipe(PACED, steps=40), folder=str(tmp_path / "whole")),
        console=Console(file=io.StringIO()),
    )
    assert [report.step for report in reports] == list(range(1, 41))
    assert [report.loss for report in reports] == list(expected.losses)
