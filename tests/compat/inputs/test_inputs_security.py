"""Hostile data pipelines: each is refused or contained, the job's log says why, and the appliance goes on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from client_sources import TENSORS, labels, pipeline, source, then
from confinement_tiers import tier_or_skip

from openwafer.base import InputError, RoleLost, StallError, WaferError
from openwafer.compat.inputs import ClientBatches, confine
from openwafer.sandbox import TIERS


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    return tier_or_skip(request.param)


def contained(
    tier: str, act: str, *args: object, kind: type[WaferError] = InputError, **fields: object
) -> tuple[str, str]:
    """The error and the log of a pipeline that gives two good batches and then does `act`."""
    log: list[str] = []
    with source(pipeline(**then(act, *args)), log=log, tiers=[tier], ahead=1, **fields) as batches:  # type: ignore[arg-type]
        assert labels(batches, range(2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
        with pytest.raises(kind) as raised:
            labels(batches, range(2, 100))
    assert type(raised.value) is kind
    return str(raised.value), "\n".join(log)


def test_a_socket_is_refused(tier: str) -> None:
    """The sentence is in the log whether or not the pipeline lets the error through."""
    error, log = contained(tier, "opens_a_socket")

    assert "opens a network connection (socket(AF_INET)), which an input worker may not do" in error
    assert "refused socket(AF_INET): the data pipeline opens a network connection" in log
    assert error in log


def test_a_file_outside_of_the_mounts_cannot_be_read(tier: str, tmp_path: Path) -> None:
    """It exists and everybody may read it; the reason names the mounts."""
    secret = tmp_path / "secret"
    secret.write_text("a password")

    error, log = contained(tier, "reads", str(secret))

    assert f"{secret} lies outside of what an input worker may see (mounts:" in error
    assert error in log
    assert "a password" not in log


def test_a_mounted_data_set_cannot_be_written(tier: str, tmp_path: Path) -> None:
    """Jobs share them."""
    tmp_path.chmod(0o755)

    error, log = contained(tier, "writes", str(tmp_path / "new"), mounts=[str(tmp_path)])

    assert "Read-only file system" in error or "Permission denied" in error
    assert error in log
    assert os.listdir(tmp_path) == []


def test_memory_is_limited(tier: str) -> None:
    """Where the kernel can refuse, Python says where; where it cannot, the supervisor ends the worker."""
    error, log = contained(tier, "eats_memory", memory_bytes=256 << 20)
    shared, shared_log = contained(tier, "eats_shared_memory", memory_bytes=256 << 20)

    assert "an input worker may use 256 MiB of memory" in error
    assert error in log
    assert "was contained: it used more than its 256 MiB of memory" in shared
    assert shared in shared_log


def test_forking_without_end_is_contained() -> None:
    """All of the processes end at once."""
    tier_or_skip("namespaces")

    error, log = contained("namespaces", "forks_without_end", memory_bytes=4 << 30)

    assert "was contained: it started more than its 40 processes and threads" in error
    assert error in log


def test_without_namespaces_forking_is_refused() -> None:
    """The loop then finds no end, and the time for a batch does."""
    tier_or_skip("landlock")

    error, log = contained("landlock", "forks_without_end", kind=StallError, batch_timeout_s=2.0)

    assert "did not deliver batch 2 within 2 s" in error
    assert "refused clone: the data pipeline starts processes" in log


def test_spinning_ends_with_the_time_for_a_batch(tier: str) -> None:
    """And is called starvation before."""
    error, log = contained(tier, "spins", kind=StallError, batch_timeout_s=2.0, stall_s=0.5)

    assert "did not deliver batch 2 within 2 s and was ended" in error
    assert "INPUT_STARVATION: system 0 has waited" in log


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("sends_garbage", "a message of kind"),
        ("sends_an_endless_message", "4611686018427387904 bytes"),
        ("sends_a_pickle", "JSON is malformed"),
        ("gives_a_batch_twice", "2 in slot 1, where 3 and a free slot were due"),
        ("gives_a_slot_that_is_not_there", "in slot 1000000"),
        ("sends_a_state_that_nobody_wants", "a state of step 77"),
    ],
)
def test_what_is_no_batch_ends_the_worker(act: str, words: str) -> None:
    """Nothing that a worker sends is interpreted but as what was due, and a pickle never is."""
    error, log = contained(tier_or_skip("namespaces"), act)

    assert "was ended because it sent something that is no batch" in error
    assert words in error
    assert error in log
    assert not os.path.exists("/tmp/owned")


def test_memory_under_our_eyes_cannot_be_taken_away() -> None:
    """A shrunken file would kill who reads it; its size is sealed."""
    error, _ = contained(tier_or_skip("namespaces"), "shrinks_the_memory")

    assert "Operation not permitted" in error


def test_its_parents_survive(tier: str) -> None:
    """And so does the run: the attempt does nothing."""
    with source(pipeline(**then("kills_its_parents")), tiers=[tier]) as batches:
        assert len(labels(batches, range(5))) == 5


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("crashes", "it was killed by signal 11 in the middle of its work"),
        ("leaves", "it ended with exit code 3 in the middle of its work"),
        ("says_goodbye", "SystemExit: enough"),
        ("closes_the_channel", "closed its channel to the appliance and was ended"),
    ],
)
def test_dying_in_the_middle_is_told_as_what_it_was(act: str, words: str) -> None:
    """The user reads what happened to the pipeline, not what it did to us."""
    error, log = contained(tier_or_skip("namespaces"), act)

    assert words in error
    assert error in log


def test_a_pickle_that_runs_commands_runs_them_in_the_sandbox(tmp_path: Path) -> None:
    """Loading is already running; nothing of ours ever loads one."""
    tier_or_skip("namespaces")
    owned = tmp_path / "owned"
    log: list[str] = []
    made = pipeline(builder=f"cos\nsystem\n(S'touch {owned}; id -un'\ntR.".encode())

    with source(made, log=log) as batches, pytest.raises(InputError, match="not callable"):
        labels(batches, [0])

    assert not owned.exists()
    assert any("No such file or directory" in line for line in log)


def test_a_mount_outside_of_the_volumes_starts_nothing(tmp_path: Path) -> None:
    """The job's mounts are held against what the appliance's owner declared."""
    batches = ClientBatches(
        pipeline("kinds"),
        TENSORS,
        [4],
        python=sys.executable,
        confinement=confine(sys.executable, mounts=["/etc"], volumes=[str(tmp_path)]),
        log=lambda line: None,
    )
    with batches, pytest.raises(InputError, match="/etc lies outside of the volumes of this appliance"):
        batches.start()


def test_one_that_kills_itself_again_and_again_is_given_up() -> None:
    """A kill from outside is made good three times without a batch in between."""
    tier_or_skip("namespaces")
    log: list[str] = []
    made = pipeline(builder=b"cos\nkill\n.", arguments=b"((cos\ngetpid\n(tRI9\nt(dt.")

    with source(made, log=log) as batches, pytest.raises(RoleLost, match="killed by signal 9"):
        labels(batches, [0])

    assert sum("starting it again" in line for line in log) == 3


def test_an_interpreter_that_the_job_names_must_lie_in_a_volume(tmp_path: Path) -> None:
    """Else its `pyvenv.cfg` could name any folder as its home, and that would be shown."""
    environment, secret = tmp_path / "volume/client", tmp_path / "secret"
    (environment / "bin").mkdir(parents=True)
    (secret / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(sys.executable)
    (environment / "pyvenv.cfg").write_text(f"home = {secret}/bin\n")
    python = str(environment / "bin/python")

    confinement = confine(python, volumes=[str(tmp_path / "volume")], python_from_job=True)

    batches = ClientBatches(
        pipeline("kinds"), TENSORS, [4], python=python, confinement=confinement, log=lambda line: None
    )
    with batches, pytest.raises(InputError, match=f"{secret} lies outside of the volumes"):
        batches.start()
