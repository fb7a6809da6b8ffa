"""A run whose systems are on other hosts: agents of this machine, each a process, joined over loopback."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts_cases import (
    TOKEN,
    Agents,
    Numbers,
    free_port,
    options,
    over_hosts,
    same_tensors,
    token_file,
    trainer,
)
from rich.console import Console

from openwafer.base import InputError, StallError, StorageError
from openwafer.cli._host import over_hosts as over_hosts_options
from openwafer.cluster import Hosts, StepDone, read_token, serve_host
from openwafer.cluster._hosts_agent import _Part
from openwafer.cluster._hosts_attempt import Agent
from openwafer.train import HostsCluster, LocalCluster
from openwafer.train.report import Timeline, _reporter

STEPS = 6


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take half a second a run and are tested elsewhere."""
    monkeypatch.setattr(_reporter, "loss_picture", lambda *args, **kwargs: None)
    monkeypatch.setattr(Timeline, "write_picture", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def agents() -> Iterator[Agents]:
    """Two agents that serve every run of this module in turn: starting Python and torch takes seconds."""
    with Agents(free_port(), 2) as started:
        yield started


# --- the same numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["ram", "disk"])
@pytest.mark.parametrize("systems", [1, 2])
def test_a_run_over_two_hosts_computes_what_one_host_computes(
    systems: int, store: str, agents: Agents, tmp_path: Path
) -> None:
    """Bit for bit: the same bytes reach the same operators in the same order, whatever they travel through."""
    here = trainer(tmp_path / "here", LocalCluster(**options(systems=systems, memoryx=store)))
    there = trainer(tmp_path / "there", over_hosts(tmp_path, agents.port, systems=systems, memoryx=store))

    log = io.StringIO()
    there.console = Console(file=log, width=300)

    expected = here.fit(Numbers(), Numbers(), steps=STEPS, eval_every=3, eval_batches=2)
    found = there.fit(Numbers(), Numbers(), steps=STEPS, eval_every=3, eval_batches=2)

    for system in range(systems):
        assert re.search(rf"host\d+ \(.*, 127\.0\.0\.1\) runs system{system}\b", log.getvalue())
    assert found.losses == expected.losses
    assert found.eval_losses == expected.eval_losses
    assert same_tensors(found.checkpoint, expected.checkpoint)


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_the_weights_of_a_run_may_be_shared_among_hosts(store: str, agents: Agents, tmp_path: Path) -> None:
    """Shards of MemoryX beside systems: no host holds all weights and state, and the run folder stays here."""
    memoryx = f"disk:{tmp_path / 'store'}" if store == "disk" else store
    here = trainer(tmp_path / "here", LocalCluster(**options(systems=2, memoryx=store)))
    cluster = over_hosts(tmp_path, agents.port, systems=2, memoryx=memoryx, memoryx_shards=3)
    there = trainer(tmp_path / "there", cluster)
    log = io.StringIO()
    there.console = Console(file=log, width=300)

    expected = here.fit(Numbers(), steps=STEPS, checkpoint_every=3)
    found = there.fit(Numbers(), steps=STEPS, checkpoint_every=3)

    for shard in (1, 2):
        assert re.search(rf"host\d+ \(.*, 127\.0\.0\.1\) runs .*memoryx{shard}\b", log.getvalue())
    assert found.losses == expected.losses
    assert same_tensors(found.checkpoint, expected.checkpoint)
    if store == "disk":
        assert all(any((tmp_path / "store" / f"shard-{shard}" / "records").iterdir()) for shard in range(3))


def test_a_disk_store_on_other_hosts_needs_a_folder_that_can_be_there() -> None:
    """The run folder is of this host."""
    with pytest.raises(InputError, match=r"'disk' with 2 shards, which lie on other hosts too.*disk:/path"):
        HostsCluster(memoryx="disk", memoryx_shards=2)


def test_stages_on_two_hosts_send_each_other_their_values(agents: Agents, tmp_path: Path) -> None:
    """Agents connect to each other, not through the coordinator: it carries no tensor of theirs."""
    shape = {"systems": 2, "execution": "pipelined", "microbatch": 2}
    here = trainer(tmp_path / "here", LocalCluster(**options(**shape)))
    there = trainer(tmp_path / "there", over_hosts(tmp_path, agents.port, **shape))

    expected = here.fit(Numbers(), steps=STEPS)
    found = there.fit(Numbers(), steps=STEPS)

    assert found.losses == expected.losses
    assert same_tensors(found.checkpoint, expected.checkpoint)


def test_spans_of_other_hosts_are_told_in_the_time_of_this_one(agents: Agents, tmp_path: Path) -> None:
    """The agents' clocks are a million seconds ahead; the timeline shows all roles side by side all the same."""
    spans = []
    begun = time.monotonic()

    trainer(tmp_path / "run", over_hosts(tmp_path, agents.port, systems=2)).fit(
        Numbers(),
        steps=2,
        callbacks=[lambda done: spans.extend(span for part in (done, *done.results) for span in part.spans)],
    )

    systems = [span for span in spans if span.lane.startswith("system")]
    assert len({span.lane for span in systems}) == 2
    assert all(begun < span.start_s <= span.end_s < time.monotonic() for span in systems)


@pytest.mark.slow
def test_roles_that_are_processes_of_their_hosts_compute_the_same(agents: Agents, tmp_path: Path) -> None:
    """The default on real hosts; and the death of such a process names it, its host and its signal."""
    log = io.StringIO()
    here = trainer(tmp_path / "here", LocalCluster(**options(systems=2)))
    there = trainer(
        tmp_path / "there",
        over_hosts(tmp_path, agents.port, systems=2, processes=True),
        Console(file=log, width=300),
    )

    expected = here.fit(Numbers(), steps=STEPS, checkpoint_every=2)
    found = there.fit(Numbers(), steps=STEPS, checkpoint_every=2, fail="system1:3")

    assert same_tensors(found.checkpoint, expected.checkpoint)
    assert "system1 on host" in log.getvalue()
    assert "was killed by signal 9 (SIGKILL)" in log.getvalue()


# --- lost hosts -------------------------------------------------------------------------------------------


def test_a_run_that_loses_a_host_goes_on_with_the_others_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both systems run on the host that is left: where a system runs changes no number."""
    monkeypatch.setattr("openwafer.cluster._hosts.REJOIN_S", 0.2)
    here = trainer(tmp_path / "here", LocalCluster(**options(systems=2)))
    expected = here.fit(Numbers(), steps=STEPS, checkpoint_every=2)
    log = io.StringIO()
    with Agents(free_port(), 2) as agents:
        there = trainer(
            tmp_path / "there", over_hosts(tmp_path, agents.port, systems=2), Console(file=log, width=300)
        )

        def kill(done: StepDone) -> None:
            if done.step == 3 and agents.processes[0].poll() is None:
                agents.processes[0].kill()

        found = there.fit(Numbers(), steps=STEPS, checkpoint_every=2, callbacks=[kill])

    assert same_tensors(found.checkpoint, expected.checkpoint)
    assert "was lost with its host" in log.getvalue()
    assert "going on from checkpoint-" in log.getvalue()


def test_a_run_that_loses_its_only_host_ends_within_seconds(tmp_path: Path) -> None:
    """It names what to do, and its last checkpoint is whole."""
    with Agents(free_port(), 1) as agents:
        lost_at: list[float] = []

        def kill(done: StepDone) -> None:
            if done.step == 3:
                agents.processes[0].kill()
                lost_at.append(time.monotonic())

        cluster = over_hosts(tmp_path, agents.port, hosts=1, systems=2)
        run = trainer(tmp_path / "run", cluster)
        # Its first agent needs seconds to start, its second never comes.
        hosts_gather = Hosts.gather

        def gather(self: Hosts) -> object:
            self.join_s = 1.0 if lost_at else 60.0
            return hosts_gather(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Hosts, "gather", gather)
            with pytest.raises(StallError, match=r"every host was lost.*--resume"):
                run.fit(Numbers(), steps=1000, checkpoint_every=2, callbacks=[kill])

        assert time.monotonic() - lost_at[0] < 30


def test_an_agent_whose_connection_was_cut_comes_back_for_the_next_attempt(
    agents: Agents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that fails for a moment costs the steps since the last checkpoint and nothing else."""
    here = trainer(tmp_path / "here", LocalCluster(**options(systems=2)))
    expected = here.fit(Numbers(), steps=STEPS, checkpoint_every=2)
    waiting: list[Hosts] = []
    gather = Hosts.gather

    def noting(self: Hosts) -> list[Agent]:
        waiting.append(self)
        return gather(self)

    monkeypatch.setattr(Hosts, "gather", noting)
    log = io.StringIO()
    there = trainer(
        tmp_path / "there", over_hosts(tmp_path, agents.port, systems=2), Console(file=log, width=300)
    )

    def cut(done: StepDone) -> None:
        if done.step == 3 and len(waiting) == 1:
            for agent in list(waiting[0]._agents):
                agent.connection.socket.shutdown(socket.SHUT_RDWR)

    found = there.fit(Numbers(), steps=STEPS, checkpoint_every=2, callbacks=[cut])

    assert len(waiting) == 2
    assert same_tensors(found.checkpoint, expected.checkpoint)
    assert "host3 (" in log.getvalue()


# --- who does not come, and who may not -------------------------------------------------------------------


def quiet(line: str) -> None:
    """Nobody reads it."""


def test_a_wrong_token_is_refused_at_both_ends() -> None:
    """The agent ends with the reason; the run goes on waiting for those who know the token."""
    told: list[str] = []
    with Hosts("127.0.0.1", 0, TOKEN.encode(), 1, 0.5, told.append) as hosts:
        with pytest.raises(InputError, match="its token is wrong; give every host a copy"):
            serve_host("127.0.0.1", hosts.port, b"not the token at all", tell=quiet)
        with pytest.raises(StallError, match="0 of 1 hosts joined"):
            hosts.gather()

    assert any("refused a connection from 127.0.0.1: its token is wrong" in line for line in told)


def test_a_run_that_nobody_joins_ends_and_says_how_to_join() -> None:
    """It tells at once what it waits for, and does not wait for ever."""
    told: list[str] = []
    begin = time.monotonic()
    with Hosts("127.0.0.1", 0, TOKEN.encode(), 2, 0.3, told.append) as hosts:
        with pytest.raises(
            StallError, match=r"0 of 2 hosts joined at .*; start `wafer host --join` on the others"
        ):
            hosts.gather()

        assert told == [
            f"waiting for 2 of 2 hosts, 0 s at most; on each: wafer host --join 127.0.0.1:{hosts.port}"
        ]
    assert time.monotonic() - begin < 20


def test_an_agent_that_finds_no_run_ends_and_says_where_it_looked() -> None:
    """A wrong port must not look like patience."""
    port = free_port()
    with pytest.raises(StallError, match=rf"no run waited for hosts at 127\.0\.0\.1:{port}"):
        serve_host("127.0.0.1", port, TOKEN.encode(), wait_s=0.2, tell=quiet)


def test_an_agent_goes_home_with_its_run() -> None:
    """Without `stay` a host is lent to one run."""
    lines: list[str] = []
    with Hosts("127.0.0.1", 0, TOKEN.encode(), 1, 5.0, quiet) as hosts:
        thread = threading.Thread(
            target=serve_host, args=("127.0.0.1", hosts.port, TOKEN.encode()), kwargs={"tell": lines.append}
        )
        thread.start()
        (agent,) = hosts.gather()
        assert str(agent).startswith("host1 (")
    thread.join(5)
    assert not thread.is_alive()
    assert lines == [f"joined 127.0.0.1:{hosts.port}"]


def test_what_keeps_a_host_from_taking_its_part_is_the_error_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The person at the coordinator reads which host has no room, and does not wait for one that never starts."""

    def full(part: object) -> None:
        raise StorageError("ring 'weights0' needs 80 GiB of memory, but 3 GiB is available")

    monkeypatch.setattr(_Part, "declare", full)
    cluster = over_hosts(tmp_path, free_port(), hosts=1)
    agent = threading.Thread(
        target=serve_host, args=("127.0.0.1", cluster.port, TOKEN.encode()), kwargs={"tell": quiet}
    )
    agent.start()

    with pytest.raises(StorageError, match=r"host1 \(.*\): ring 'weights0' needs 80 GiB"):
        trainer(tmp_path / "run", cluster).fit(Numbers(), steps=STEPS)

    agent.join(10)
    assert not agent.is_alive()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_service_managers_end_an_agent_cleanly(ending: signal.Signals, tmp_path: Path) -> None:
    """The host's owner wants it back; there is nothing to read in a traceback."""
    command = ["host", "--join", f"127.0.0.1:{free_port()}", "--token-file", str(token_file(tmp_path))]
    agent = subprocess.Popen(
        [sys.executable, "-c", "from openwafer.cli import main; main()", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert agent.stdout is not None
    assert "nobody is at 127.0.0.1" in agent.stdout.readline()

    os.kill(agent.pid, ending)

    _, errors = agent.communicate(timeout=10)
    assert agent.returncode == 128 + ending
    assert "Traceback" not in errors


def test_a_token_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    """The first run makes it; hosts get a copy. What others can read is no secret."""
    path = tmp_path / "openwafer" / "token"
    with pytest.raises(InputError, match=r"cannot be read.*copy it from the host"):
        read_token(path)

    token = read_token(path, make=True)

    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_token(path) == read_token(path, make=True) == token
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        read_token(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(InputError, match="holds 5 bytes"):
        read_token(path)


def test_options_for_hosts_make_a_cluster_of_hosts_of_the_recipes_own() -> None:
    """What the recipe says of systems and memory holds wherever they are; a port alone asks for nothing."""
    cluster = LocalCluster(systems=4, memoryx="disk", system_memory="1GiB")

    assert over_hosts_options(cluster, None, None, None, None) == cluster
    spread = over_hosts_options(cluster, 2, 8000, None, Path("secret"))
    assert spread == HostsCluster(
        systems=4, memoryx="disk", system_memory="1GiB", hosts=2, port=8000, token_file="secret"
    )
    assert over_hosts_options(spread, None, 9000, None, None).port == 9000
    with pytest.raises(
        InputError, match="--port is for a run over several hosts; say over how many, with --hosts"
    ):
        over_hosts_options(cluster, None, 8000, None, None)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("hosts", 0, "at least 1"),
        ("port", 70000, "highest is 65535"),
        ("listen", "", "127.0.0.1"),
        ("join_s", 0, "above 0"),
    ],
)
def test_a_cluster_of_hosts_that_cannot_be_is_refused(field: str, value: object, words: str) -> None:
    """Before anything listens or waits."""
    with pytest.raises(InputError, match=rf"HostsCluster: {field} is .*{words}"):
        HostsCluster(**{field: value})
