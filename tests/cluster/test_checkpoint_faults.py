"""What is left of a checkpoint when the writer dies, the disk fills up, or bytes change."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from store_cases import filled, linear_records, random_values

from file_limit import no_file_above
from openwafer.base import CheckpointError, StorageError
from openwafer.cluster.store import (
    Checkpoint,
    CheckpointWriter,
    RamStore,
    latest_checkpoint,
    list_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)
from openwafer.cluster.store import _writer as writer_module

RECORDS = linear_records(3)


def store_at(step: int, seed: int = 0) -> RamStore:
    store = RamStore(RECORDS)
    for index, record in enumerate(RECORDS):
        store.write(index, step, filled(record, random_values(RECORDS, seed)))
    return store


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_kill_9_leaves_a_whole_checkpoint_or_none(tmp_path: Path) -> None:
    """Every name that a reader can see is complete; the remains go at the next save."""
    store = store_at(1)
    for delay in range(6):
        pid = os.fork()
        if pid == 0:
            try:
                for step in range(1, 1 << 30):
                    for index in range(len(RECORDS)):
                        store.keep(index, step)
                    save_checkpoint(tmp_path, store, step, {}, keep=2)
            finally:
                os._exit(1)
        time.sleep(0.03 + 0.013 * delay)
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        for path in list_checkpoints(tmp_path):
            assert f"checkpoint-{verify_checkpoint(path).step}" == path.name
    found = latest_checkpoint(tmp_path)
    assert found is not None

    writer = CheckpointWriter(tmp_path, 1 << 40, RECORDS, {})
    writer.abort()
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in list_checkpoints(tmp_path)}
    assert latest_checkpoint(tmp_path) == found


def test_remains_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    """Another process may be writing beside us; only its death makes its folder rubbish."""
    dead, living = tmp_path / f"checkpoint-7.tmp-{dead_pid()}", tmp_path / f"checkpoint-7.tmp-{os.getppid()}"
    for folder in (dead, living):
        folder.mkdir()
        (folder / "weights-00001-of-00001.safetensors").write_bytes(b"half")
    first = CheckpointWriter(tmp_path, 1, RECORDS, {})
    save_checkpoint(tmp_path, store_at(2), 2, {})  # while another writer of this process is at work

    names = {path.name for path in tmp_path.iterdir()}
    assert names == {living.name, "checkpoint-2", f"checkpoint-1.tmp-{os.getpid()}"}
    first.abort()


def test_a_replacement_that_died_halfway_is_undone(tmp_path: Path) -> None:
    """Between its two renames the old checkpoint lies aside; the next save puts it back."""
    path = save_checkpoint(tmp_path, store_at(4), 4, {})
    path.rename(tmp_path / f"checkpoint-4.old-{dead_pid()}")
    assert list_checkpoints(tmp_path) == ()
    save_checkpoint(tmp_path, store_at(5), 5, {})
    assert [p.name for p in list_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-5"]
    verify_checkpoint(path)


def test_a_truncated_shard_is_named_with_its_sizes(tmp_path: Path) -> None:
    """Found by opening, before any record is touched."""
    path = save_checkpoint(tmp_path, store_at(1), 1, {})
    shard = path / "weights-00002-of-00003.safetensors"
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    with pytest.raises(
        CheckpointError,
        match=f"{shard.name} is damaged: {size - 1} bytes found, {size} expected; copy the file again",
    ):
        Checkpoint.open(path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """A copy that left out the optimizer state is no checkpoint to resume from."""
    path = save_checkpoint(tmp_path, store_at(1), 1, {})
    (path / "state-00003-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"state-00003-of-00003.safetensors is missing"):
        Checkpoint.open(path)


@pytest.mark.parametrize("file", ["weights-00001-of-00003.safetensors", "model.safetensors.index.json"])
def test_a_flipped_bit_is_found_by_verify(file: str, tmp_path: Path) -> None:
    """Equal sizes, other bytes."""
    path = save_checkpoint(tmp_path, store_at(1), 1, {})
    data = bytearray((path / file).read_bytes())
    data[-20] ^= 1
    (path / file).write_bytes(data)
    Checkpoint.open(path)
    with pytest.raises(CheckpointError, match=f"is damaged: the hash of {file} does not match"):
        verify_checkpoint(path)


@pytest.mark.parametrize("header", [b"\xff" * 8, (20).to_bytes(8, "little") + b'{"a": 3, "b" : "cde"}'])
def test_a_shard_with_a_broken_header_is_refused(header: bytes, tmp_path: Path) -> None:
    """The bytes come from outside: nothing in them is believed unchecked."""
    path = save_checkpoint(tmp_path, store_at(1), 1, {})
    with (path / "weights-00001-of-00003.safetensors").open("r+b") as file:
        file.write(header)
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        Checkpoint.open(path)


def test_every_flipped_byte_of_a_manifest_is_found(tmp_path: Path) -> None:
    """It says which step and which files; a wrong one would resume a run that never was."""
    path = save_checkpoint(tmp_path, store_at(1), 1, {"lr": 0.5}, {"seed": 3})
    manifest = path / "manifest.json"
    whole = manifest.read_bytes()
    for at in range(0, len(whole) - 1, 7):
        manifest.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"manifest.json (is damaged|has format version)"):
            Checkpoint.open(path)
    for length in range(0, len(whole) - 1, 50):
        manifest.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"manifest.json is damaged"):
            Checkpoint.open(path)


def test_a_damaged_latest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """Recovery takes the newest that opens; when none does, it says why instead of starting over."""
    paths = [save_checkpoint(tmp_path, store_at(step), step, {}) for step in (1, 2)]
    (paths[1] / "state-00001-of-00003.safetensors").unlink()
    assert latest_checkpoint(tmp_path) == paths[0]
    (paths[0] / "state-00001-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-2/state-00001-of-00003.safetensors is missing"):
        latest_checkpoint(tmp_path)


def test_a_folder_that_is_no_checkpoint_says_so(tmp_path: Path) -> None:
    """A path one level too high or too low is a common slip."""
    with pytest.raises(CheckpointError, match=r"manifest.json cannot be read .*name a folder that does"):
        Checkpoint.open(tmp_path)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run may go on: the older checkpoint is there, the space of the new one is free again."""
    older = save_checkpoint(tmp_path, store_at(1), 1, {}, keep=1)
    calls, real = [], os.pwritev

    def fill_up(fd: int, buffers: list[Any], offset: int) -> int:
        calls.append(offset)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", fill_up)
    with pytest.raises(StorageError, match=r"No space left.*bytes\) needed, .* free in .*make room"):
        save_checkpoint(tmp_path, store_at(2), 2, {}, keep=1)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [older]
    verify_checkpoint(older)


def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    """`ulimit -f` ends a write with EFBIG, after a short write up to the limit."""
    with no_file_above(5000), pytest.raises(StorageError, match="File too large"):
        save_checkpoint(tmp_path, store_at(1), 1, {})
    assert list(tmp_path.iterdir()) == []


def test_a_limit_inside_a_page_is_a_full_disk_where_odd_lengths_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Direct writes that the limit cuts inside a page end with EINVAL on some file systems, which tells a user nothing."""
    real = os.pwritev

    def refuses_odd_lengths(fd: int, data: list[memoryview], offset: int) -> int:
        if offset + len(data[0]) > 5000:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwritev", refuses_odd_lengths)
    with no_file_above(5000), pytest.raises(StorageError, match="File too large"):
        save_checkpoint(tmp_path, store_at(1), 1, {})


def test_a_checkpoint_that_does_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is known before the first byte."""
    monkeypatch.setattr(writer_module, "free_bytes", lambda folder: 1000)
    need = 3 * (82 + 2 * 6400 + 8)
    with pytest.raises(StorageError, match=rf"does not fit: .*\({need} bytes\) needed"):
        CheckpointWriter(tmp_path, 1, RECORDS, {})
    assert list(tmp_path.iterdir()) == []


def test_an_exception_in_the_run_aborts_the_writer(tmp_path: Path) -> None:
    """A context manager cleans up behind an error, and only then."""

    def crash() -> None:
        with CheckpointWriter(tmp_path, 1, RECORDS, {}) as writer:
            writer.add(0, store_at(1).read(0))
            raise KeyError("the run")

    with pytest.raises(KeyError):
        crash()
    assert list(tmp_path.iterdir()) == []
