"""Every process of a running job, and the management node, killed at random points: the weights come out undisturbed.

WAFER_CHAOS_KILLS=30 kills so many times; a few by default.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from appliance_cases import WAIT_S, processes_of, wait_until
from counted_job import check_undisturbed, counted_job

from openwafer.appliance import JobFolder
from openwafer.appliance.client import Client, Contact
from openwafer.base import EngineError

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
        job = client.submit(*counted_job(STEPS, 0.15, tmp_path / "hurry", max_restarts=KILLS + 1))
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
        (tmp_path / "hurry").touch()
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
    check_undisturbed(folder.run, STEPS, tmp_path / "whole")
