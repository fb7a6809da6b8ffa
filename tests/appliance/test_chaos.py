"""Every process of a running job, and the management node, killed at random points: the weights come out undisturbed.

WAFER_CHAOS_KILLS=30 kills so many times; a few by default.
"""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
import torch
from appliance_cases import WAIT_S, processes_of, wait_until
from rich.console import Console

from openwafer.appliance import JobFolder, JobSpec
from openwafer.appliance.client import Client, Contact
from openwafer.base import EngineError
from openwafer.cli._train_job import REQUEST, TrainRequest
from openwafer.cluster.store import Checkpoint, list_checkpoints
from openwafer.train import fit_config, load_recipe
from openwafer.train.report import read_metrics

RECIPE = Path(__file__).parent / "counted.py"
KILLS = int(os.environ.get("WAFER_CHAOS_KILLS", "2"))
STEPS = max(40, 20 * KILLS)


class Cluster:
    """`wafer cluster up`, which may be killed and comes up again at the same place."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}
        self.up()

    def up(self) -> None:
        words = ("cluster", "up", "--systems", "2", "--folder", str(self.folder), "--port", str(self.port))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "openwafer.cli", *words],
            stdout=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=True,
        )

    def client(self) -> Client:
        """Once the token is there and somebody answers."""
        token = wait_until(lambda: self._token(), "a token")
        client = Client(Contact(url=f"http://127.0.0.1:{self.port}", token=token))

        def answers() -> bool:
            with suppress(EngineError):
                return bool(client.cluster())
            return False

        wait_until(answers, "the appliance answering")
        return client

    def _token(self) -> str:
        with suppress(OSError):
            return (self.folder / "token").read_text().strip()
        return ""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def victims(cluster: Cluster, folder: JobFolder) -> dict[str, int]:
    """What could be killed now: the node, the job's runner, its main process, its roles and helpers."""
    found = {"node": cluster.process.pid}
    with suppress(OSError, IndexError, psutil.Error):
        runner = int(folder.alive.read_text().split()[0])
        if runner in psutil.pids():
            found["runner"] = runner
    for pid in processes_of(folder.path):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            is_main = process.ppid() == found.get("runner")
            found["main" if is_main else f"role {' '.join(process.cmdline())[-60:]}"] = pid
    return found


@pytest.mark.slow
@pytest.mark.timeout(100 + 30 * KILLS)
def test_whatever_is_killed_a_job_ends_with_the_undisturbed_weights_and_no_line_is_lost(
    tmp_path: Path,
) -> None:
    """Restarts count only without a new checkpoint in between, so that a job of many checkpoints survives many kills."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    cluster = Cluster(tmp_path / "cluster")
    order = dice.sample(["node", "runner", "main", "role"], 4)
    killed: list[str] = []
    followed: list[str] = []
    try:
        client = cluster.client()
        request = TrainRequest(recipe=RECIPE.name, arguments=[f"steps={STEPS}", "pause=0.15"])
        words = (
            "{python}",
            "-m",
            "openwafer.cli",
            "train-job",
            f"{{job}}/source/{REQUEST}",
            "--systems",
            "{systems}",
        )
        words += ("--memoryx", "{memoryx}", "--threads", "{threads}", "--folder", "{job}/run")
        spec = JobSpec(
            kind="train",
            command=words,
            resume_command=words,
            systems=2,
            max_restarts=KILLS + 1,
            tells_state=True,
        )
        job = client.submit(spec, {RECIPE.name: RECIPE.read_bytes(), REQUEST: msgspec.json.encode(request)})
        folder = JobFolder(cluster.folder / "jobs" / job.id)
        follower = threading.Thread(target=lambda: followed.extend(client.follow_log(job.id)), daemon=True)
        follower.start()
        while len(killed) < KILLS:
            time.sleep(dice.uniform(0.3, 5.0))
            if client.job(job.id).is_final:
                break
            choice = victims(cluster, folder)
            # The kinds in turn: else it would nearly always be one of the roles.
            kind = order[len(killed) % len(order)]
            names = sorted(name for name in choice if name.split()[0] == kind)
            if not names:
                continue
            name = dice.choice(names)
            with suppress(ProcessLookupError):
                os.kill(choice[name], signal.SIGKILL)
            killed.append(name)
            if kind == "node":
                cluster.process.wait()
                cluster.up()
                cluster.client().close()
        end = time.monotonic() + WAIT_S + 60
        while not (done := client.job(job.id)).is_final:
            assert time.monotonic() < end, (seed, killed, done, folder.log.read_text())
            time.sleep(0.2)
        follower.join(30)
        assert done.state == "succeeded", (seed, killed, done, folder.log.read_text())
        assert "".join(followed) == folder.log.read_text(), (seed, killed)
        wait_until(lambda: not processes_of(folder.path), "the end of every process of the job")
    finally:
        cluster.kill()
    print(f"seed {seed}: killed {len(killed)}: {killed}; {done.starts} starts")
    whole = replace(load_recipe(RECIPE, steps=STEPS), folder=str(tmp_path / "whole"))
    expected = fit_config(whole, console=Console(file=io.StringIO()))
    reports = read_metrics(folder.run / "metrics.jsonl").train
    assert [report.step for report in reports] == list(range(1, STEPS + 1))
    assert [report.loss for report in reports] == list(expected.losses)
    ours, theirs = (
        Checkpoint.open(list_checkpoints(path)[-1], verify=True)
        for path in (folder.run / "checkpoints", tmp_path / "whole" / "checkpoints")
    )
    assert ours.step == theirs.step == STEPS
    for name in theirs.types:
        assert torch.equal(ours.tensor(name), theirs.tensor(name)), (name, seed, killed)
