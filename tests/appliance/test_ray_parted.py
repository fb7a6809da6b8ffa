"""Hosts whose network parts in the middle of a job: the Ray engine over networks that only a cable joins.

WAFER_PARTED_NETWORKS=1 runs them, as root; three minutes. Hosts that are killed are in test_ray_engine.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, Popen

import pytest
from appliance_cases import processes_of, wait_until
from counted_job import check_undisturbed, counted_job
from parted_network import Network

from openwafer.appliance import Job, JobFolder, Spread
from openwafer.appliance.client import Client, Contact
from openwafer.appliance.ray._placement import Placement, read_placement
from openwafer.cli._train_job import HOST_COMMAND, HOSTS_OPTIONS

pytestmark = pytest.mark.skipif(
    not os.environ.get("WAFER_PARTED_NETWORKS"), reason="WAFER_PARTED_NETWORKS=1 runs it, in three minutes"
)
HOME = 1
STEPS = 120
SPREAD = Spread(options=HOSTS_OPTIONS, agent=HOST_COMMAND)
# By itself Ray takes about a minute to count a host as dead that says nothing (docs/appliance.md).
SOONER = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


class Hosts:
    """A Ray cluster of three hosts: the appliance's, which offers no system, and two with one each."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.started: list[Popen[bytes]] = []
        guard = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        own = {"XDG_CONFIG_HOME": str(folder / "config"), "OMP_NUM_THREADS": "1"}
        self.environment = {**os.environ, **guard, **SOONER, **own}
        self.head = f"{network.address(HOME)}:6379"

    def up(self) -> None:
        """Start Ray everywhere, and the appliance."""
        self.start_ray(HOME)
        self.wait_for_log("Ray runtime started", 1)
        for host in (2, 3):
            self.start_ray(host)
        self.wait_for_log("Ray runtime started", 3)
        words = ("cluster", "up", "--engine", "ray", "--address", self.head, "--port", "8470")
        self.start(
            HOME, sys.executable, "-m", "openwafer.cli", *words, "--systems", "2", "--folder", str(self.state)
        )
        self.wait_for_log("serving at", 1)

    def wait_for_log(self, text: str, times: int) -> None:
        """Until what was started has said something so often."""
        try:
            wait_until(lambda: self.log.read_text().count(text) >= times)
        except AssertionError as error:
            raise AssertionError(f"{text!r} is missing:\n{self.log.read_text()}") from error

    @property
    def hurry(self) -> Path:
        """Once this file is there, steps of jobs take no longer than they need."""
        return self.folder / "hurry"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start_ray(self, host: int) -> None:
        """Each host but the first has process ids, shared memory and temporary files of Ray of its own, too: it cannot see or
        end another's processes.
        """
        words = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        words += ["--num-cpus=2", "--object-store-memory=80000000", f"--node-ip-address={self.address(host)}"]
        if host == HOME:
            words += ["--head", "--port=6379", "--include-dashboard=false", '--resources={"wafer_system": 0}']
        else:
            words += [f"--address={self.head}", '--resources={"wafer_system": 1}']
            apart = 'mount -t tmpfs ray /tmp/ray && mount -t tmpfs memory /dev/shm && exec "$@"'
            words = ["sh", "-c", apart, "sh", *words]
            words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *words]
        self.start(host, *words)

    def start(self, host: int, *words: str) -> None:
        with self.network.at(host), self.log.open("ab") as log:
            self.started.append(
                Popen(
                    words, stdin=DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True
                )
            )

    def address(self, host: int) -> str:
        return self.network.address(host)

    def submit(self, pause: float, **changes: object) -> tuple[str, JobFolder]:
        """The id and the folder of a job that trains, with so many seconds for each step."""
        with self.network.at(HOME), self.client() as client:
            id = client.submit(*counted_job(STEPS, pause, self.hurry, spread=SPREAD, **changes)).id
        return id, JobFolder(self.state / "jobs" / id)

    def job(self, id: str) -> Job:
        """What the appliance says of a job."""
        with self.network.at(HOME), self.client() as client:
            return client.job(id)

    def client(self) -> Client:
        token = (self.state / "token").read_text().strip()
        return Client(Contact(url="http://127.0.0.1:8470", token=token))

    def of_job(self, host: int, folder: JobFolder) -> set[int]:
        """Processes of a job, and of its agents, on a host."""
        own = [folder.path, *(folder.path / "hosts").glob("*-*")]
        return self.network.processes(host) & {pid for path in own for pid in processes_of(path)}

    def close(self) -> None:
        """End every process of the three hosts."""
        for host in (HOME, 2, 3):
            for pid in self.network.processes(host):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Three hosts, each with a network of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("the command unshare (util-linux) is not installed")
    try:
        network = Network(3)
    except OSError as error:
        pytest.skip(f"networks with cables to cut need root: {error}")
    hosts = Hosts(network, tmp_path)
    try:
        hosts.up()
        yield hosts
    finally:
        hosts.close()
        network.close()


def placement(folder: JobFolder) -> Placement:
    """Where the job's latest start is."""
    found = read_placement(folder)
    assert found is not None
    return found


def host_of(hosts: Hosts, address: str) -> int:
    """The number of the host of an address."""
    return next(host for host in (HOME, 2, 3) if hosts.address(host) == address)


def wait_for_checkpoint(folder: JobFolder, step: int) -> None:
    """Until the job has written one that is at least so far."""

    def is_there() -> bool:
        return int(folder.newest_checkpoint().rpartition("-")[2] or 0) >= step

    wait_until(is_there, f"checkpoint-{step}")


def is_final(hosts: Hosts, id: str) -> Job | None:
    """The job when it has ended."""
    job = hosts.job(id)
    return job if job.is_final else None


@pytest.mark.slow
def test_a_job_over_two_hosts_goes_on_with_one_when_the_others_cable_is_cut(
    hosts: Hosts, tmp_path: Path
) -> None:
    """Nothing is heard of the other for ten seconds; the run then goes on from its checkpoint with both systems on one host.
    What ran on the other ends by itself, and the mended cable brings nothing of it back.
    """
    id, folder = hosts.submit(0.1)
    wait_for_checkpoint(folder, 10)
    seats = placement(folder).seats
    assert len(seats) == 2
    cut = host_of(hosts, seats[1].address)
    assert hosts.of_job(cut, folder)

    hosts.network.set_cable(cut, whole=False)
    wait_until(lambda: "was lost with its host" in folder.log.read_text(), "the loss of a host")
    lost_at = int(folder.newest_checkpoint().rpartition("-")[2])
    wait_for_checkpoint(folder, lost_at + 10)
    hosts.network.set_cable(cut, whole=True)
    hosts.hurry.touch()

    done = wait_until(lambda: is_final(hosts, id), "the end of the job")
    assert (done.state, done.starts) == ("succeeded", 1), folder.log.read_text()
    wait_until(lambda: not hosts.of_job(cut, folder), "the end of what was cut off")
    check_undisturbed(folder.run, STEPS, tmp_path / "whole")


@pytest.mark.slow
def test_a_job_whose_own_host_is_cut_off_starts_again_elsewhere_and_ends_where_it_was(
    hosts: Hosts, tmp_path: Path
) -> None:
    """Two commands of one job would write one run folder: the one that was given up is gone before the next begins."""
    id, folder = hosts.submit(0.25, systems=1)
    wait_for_checkpoint(folder, 10)
    cut = host_of(hosts, placement(folder).seats[0].address)
    before = hosts.of_job(cut, folder)
    assert before

    hosts.network.set_cable(cut, whole=False)
    wait_until(lambda: "its process was lost" in folder.log.read_text(), "the loss of a host")
    wait_until(lambda: placement(folder).number == 2, "another start")
    assert host_of(hosts, placement(folder).seats[0].address) != cut
    wait_until(lambda: hosts.of_job(5 - cut, folder), "the job on the other host")
    assert not hosts.of_job(cut, folder)
    hosts.network.set_cable(cut, whole=True)
    hosts.hurry.touch()

    done = wait_until(lambda: is_final(hosts, id), "the end of the job")
    assert (done.state, done.starts) == ("succeeded", 2), folder.log.read_text()
    assert re.search(
        r"its process was lost; going on from checkpoint-\d+, restart 1 of 3", folder.log.read_text()
    )
    check_undisturbed(folder.run, STEPS, tmp_path / "whole", systems=1)
