"""What a store does when it is killed, damaged, locked or out of space."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_cases import filled, linear_records, random_values

from openwafer.base import CheckpointError, InputError, RunFolderError, StorageError
from openwafer.cluster.store import DiskStore, aligned_buffer
from openwafer.cluster.store import _disk as disk
from openwafer.cluster.store import _files as files

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000


def flushed(folder: Path, records: Any, step: int = 1) -> None:
    store = DiskStore(folder, records)
    for index, record in enumerate(records):
        store.write(index, step, filled(record, random_values(records)))
    store.flush(step, {})
    store.close()


def record_files(folder: Path) -> list[Path]:
    return sorted((folder / "records").iterdir())


def flip_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


# --- death ------------------------------------------------------------------------------------------------


def fork(body: Callable[[int], None]) -> tuple[int, int]:
    """Run `body(pipe)` in another process; returns its pid and the pipe to read what it says.

    Forked, because a new interpreter spends seconds on imports. The body must not compute with torch, whose
    threads are not there after a fork.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            body(writer)
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


def heard(pid: int, reader: int) -> str:
    """All that a forked process says until it ends."""
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def write_for_ever(folder: Path, pipe: int) -> None:
    """Steps 1, 2, ...: every byte of every record is the step's number; flushed every third step."""
    records = linear_records(3, width=300)
    store = DiskStore(folder, records, cached={1}, fresh=True)
    buffers = [aligned_buffer(record.nbytes) for record in records]
    for step in range(1, 1 << 60):
        for index, record in enumerate(records):
            buffers[index][:] = bytes([step % 100]) * record.nbytes
            store.write(index, step, buffers[index])
        if step % 3 == 0:
            store.flush(step, {})
            os.write(pipe, b".")


def consistent_step(folder: Path) -> int:
    """Open and check that every byte is of the manifest's step; CheckpointError passes through."""
    records = linear_records(3, width=300)
    store = DiskStore(folder, records)
    try:
        assert store.step is not None
        for index, record in enumerate(records):
            data = store.read(index, aligned_buffer(record.nbytes))
            assert set(bytes(data)) == {store.step % 100}, "a wrong manifest"
        store.verify()
        return store.step
    finally:
        store.close()


def test_kill_9_leaves_a_torn_store_or_a_right_one(tmp_path: Path) -> None:
    """The kernel stops the writer anywhere; what opens afterwards is exactly the flushed step."""
    rng = random.Random(5)
    torn = []
    for _ in range(8):
        pid, reader = fork(lambda pipe: write_for_ever(tmp_path, pipe))
        assert os.read(reader, 1) == b".", "the child must reach its first flush"
        time.sleep(rng.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        os.close(reader)
        try:
            step = consistent_step(tmp_path)
        except CheckpointError as error:
            torn.append(str(error))
        else:
            assert step % 3 == 0
    assert torn, "eight kills in the middle of writing never tore the store"
    assert all("is torn" in text and "Resume from the last checkpoint" in text for text in torn)


def killed_at_write(folder: Path, system_call: int) -> bool:
    """Fork a writer whose nth pwrite, fsync or rename is its death; says whether it died there."""
    records = linear_records(2)
    pid = os.fork()
    if pid == 0:
        left = system_call

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return wrapper

        try:
            store = DiskStore(folder, records, cached={1})
            buffers = [bytearray(store.read(0, aligned_buffer(records[0].nbytes))), bytearray(store.read(1))]
            for name in ("pwritev", "fsync", "rename", "replace"):
                setattr(os, name, counted(getattr(os, name)))
            for index, record in enumerate(records):
                buffer = aligned_buffer(record.nbytes)
                buffer[:] = bytes(byte ^ 0xFF for byte in buffers[index])
                store.write(index, 2, buffer)
            store.flush(2, {})
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_death_at_every_system_call_of_an_update_is_torn_or_whole(tmp_path: Path) -> None:
    """Each call between two flushes is tried as the last one: the store is at step 1, at step 2, or torn."""
    records = linear_records(2)
    outcomes = []
    for call in range(1, 100):
        folder = tmp_path / str(call)
        flushed(folder, records)
        before = [path.read_bytes()[8192:] for path in record_files(folder)]
        died = killed_at_write(folder, call)
        try:
            store = DiskStore(folder, records)
            store.verify()
            step, data = store.step, [path.read_bytes()[8192:] for path in record_files(folder)]
            store.close()
            assert (data == before) == (step == 1)
            outcomes.append(step)
        except CheckpointError as error:
            outcomes.append("torn" if "is torn" in str(error) else str(error))
        shutil.rmtree(folder)
        if not died:
            break
    assert not died, "the update never ended"
    assert outcomes[0] == 1
    assert outcomes[-1] == 2
    assert outcomes.count("torn") >= 6
    assert set(outcomes) == {1, 2, "torn"}


def test_a_write_after_the_flush_makes_the_manifest_stale(tmp_path: Path) -> None:
    """One newer record and the others of the flush are no step that ever was."""
    records = linear_records(3)
    flushed(tmp_path, records)
    store = DiskStore(tmp_path, records)
    store.write(1, 2, filled(records[1], random_values(records)))
    store.close()

    with pytest.raises(
        CheckpointError,
        match=r"torn: record 1 \('layer.1'\) is complete at step 2, the last flush was at step 1; .*Resume",
    ):
        DiskStore(tmp_path, records)

    # Even with the manifest put back, the records' own stamps tell.
    (tmp_path / "manifest.stale.json").rename(tmp_path / "manifest.json")
    with pytest.raises(CheckpointError, match=r"torn: record 1 \('layer.1'\) is complete at step 2"):
        DiskStore(tmp_path, records)


# --- damage -----------------------------------------------------------------------------------------------


def test_a_truncated_record_is_named_with_its_sizes(tmp_path: Path) -> None:
    """A copy that ended early must not read as zeros; not at opening, and not during the run."""
    records = linear_records(2)
    flushed(tmp_path, records)
    store = DiskStore(tmp_path, records)
    path = record_files(tmp_path)[1]
    size = path.stat().st_size
    os.truncate(path, size - 5000)

    message = f"{path.name} is damaged: {size - 5000} bytes found, {size} expected"
    with pytest.raises(CheckpointError, match=message):
        store.weights(1, aligned_buffer(records[1].nbytes))
    store.close()
    with pytest.raises(CheckpointError, match=message):
        DiskStore(tmp_path, records)


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    """Somebody cleaned up."""
    records = linear_records(2)
    flushed(tmp_path, records)
    record_files(tmp_path)[0].unlink()
    with pytest.raises(CheckpointError, match=r"00000-layer.0.safetensors is missing"):
        DiskStore(tmp_path, records)


def test_a_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    """Opening reads stamps only; verify reads everything."""
    records = linear_records(2)
    flushed(tmp_path, records)
    flip_byte(record_files(tmp_path)[1], -records[1].nbytes % 4096 + 9000)
    store = DiskStore(tmp_path, records)
    with pytest.raises(CheckpointError, match=r"00001-layer.1.safetensors is damaged.*check the disk"):
        store.verify()
    store.close()


def test_a_flipped_bit_in_header_or_manifest_is_found_at_opening(tmp_path: Path) -> None:
    """Both say what the bytes mean, so neither may be believed when damaged."""
    records = linear_records(1)
    flushed(tmp_path, records)
    flip_byte(record_files(tmp_path)[0], 200)
    with pytest.raises(CheckpointError, match="or its header is damaged"):
        DiskStore(tmp_path, records)
    flip_byte(record_files(tmp_path)[0], 200)
    manifest = tmp_path / "manifest.json"
    flip_byte(manifest, manifest.read_bytes().index(b'"step": 1') + len(b'"step": '))
    with pytest.raises(CheckpointError, match=r"manifest.json is damaged \(its hash"):
        DiskStore(tmp_path, records)


def test_a_store_of_another_plan_is_refused(tmp_path: Path) -> None:
    """Equal file names with other shapes inside, or other records altogether."""
    flushed(tmp_path, linear_records(2))
    with pytest.raises(CheckpointError, match=r"holds other records than this plan: 2 there, 3 here"):
        DiskStore(tmp_path, linear_records(3))
    with pytest.raises(CheckpointError, match=r"(holds other tensors|is damaged)"):
        DiskStore(tmp_path, linear_records(2, width=41))


# --- the file system --------------------------------------------------------------------------------------


def test_without_direct_io_the_store_goes_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems that refuse O_DIRECT (EINVAL at open) still store; the pages are synced and dropped."""
    real_open, dropped = os.open, []

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & files._O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: dropped.append(args[3]))
    records = linear_records(2)
    flushed(tmp_path, records)
    monkeypatch.undo()

    assert os.POSIX_FADV_DONTNEED in dropped
    store = DiskStore(tmp_path, records)
    assert bytes(store.read(1, aligned_buffer(records[1].nbytes))) == bytes(
        filled(records[1], random_values(records))
    )
    store.close()


def test_short_reads_and_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal or a busy device may end a call after any number of bytes, also inside a page."""
    real = {"preadv": os.preadv, "pwritev": os.pwritev}

    def short(name: str) -> Callable[..., int]:
        def call(fd: int, buffers: list[memoryview], offset: int) -> int:
            count = len(buffers[0])
            pages = max(8192, count // 3 // 4096 * 4096)
            moved = real[name](fd, [buffers[0][:pages]], offset)
            return moved - 100 if count > pages else moved

        return call

    monkeypatch.setattr(os, "preadv", short("preadv"))
    monkeypatch.setattr(os, "pwritev", short("pwritev"))
    records = linear_records(1, width=100)
    flushed(tmp_path, records)
    store = DiskStore(tmp_path, records)
    assert bytes(store.read(0, aligned_buffer(records[0].nbytes))) == bytes(
        filled(records[0], random_values(records))
    )
    store.close()


def test_signals_do_not_break_a_write(tmp_path: Path) -> None:
    """A timer that fires all the time interrupts system calls (EINTR)."""
    records = linear_records(1, width=1000)
    data, into = filled(records[0], random_values(records)), aligned_buffer(records[0].nbytes)
    store = DiskStore(tmp_path, records)
    fired: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, _: fired.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        end = time.monotonic() + 20
        while len(fired) < 10 and time.monotonic() < end:
            store.write(0, 1, data)
            into[:] = bytes(len(into))
            assert store.read(0, into) == data
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert len(fired) >= 10
    store.close()


def test_an_unaligned_buffer_is_refused(tmp_path: Path) -> None:
    """Direct I/O would fail with EINVAL, which says nothing."""
    records = linear_records(1)
    flushed(tmp_path, records)
    store = DiskStore(tmp_path, records)
    with pytest.raises(InputError, match="not made of whole pages"):
        store.read(0, aligned_buffer(records[0].nbytes + 1)[1:])
    store.close()


def test_a_second_opener_is_refused_with_the_holders_pid(tmp_path: Path) -> None:
    """Two writers in one folder would mix two runs."""
    records = linear_records(1)
    store = DiskStore(tmp_path, records)

    def open_too(pipe: int) -> None:
        try:
            DiskStore(tmp_path, records)
        except Exception as error:
            os.write(pipe, f"{type(error).__name__} {error}".encode())

    said = heard(*fork(open_too))
    assert said.startswith("RunFolderError")
    assert f"is in use by process {os.getpid()};" in said
    with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
        DiskStore(tmp_path, records, fresh=True)
    store.close()
    DiskStore(tmp_path, records, fresh=True).close()


# --- a full disk ------------------------------------------------------------------------------------------


def test_a_store_that_does_not_fit_is_found_at_creation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fills the disk on its third day helps nobody; what was written so far is removed."""
    calls = []

    def fill_up(fd: int, offset: int, length: int) -> None:
        calls.append(length)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fill_up)
    with pytest.raises(
        StorageError, match=r"00002-layer.2.*No space left.*\d+ bytes\) needed, .* free in .*make room"
    ):
        DiskStore(tmp_path, linear_records(4))
    assert record_files(tmp_path) == []
    monkeypatch.undo()
    DiskStore(tmp_path, linear_records(4)).close()


def mount_small(folder: Path) -> None:
    """In a namespace of this process alone, mount a file system of 1 MiB. Raises OSError where forbidden."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    if libc.mount(b"none", bytes(folder), b"tmpfs", 0, b"size=1m"):
        raise OSError(ctypes.get_errno(), "mount")


@pytest.mark.parametrize("asked", [True, False])
def test_a_small_file_system_is_really_full(asked: bool, tmp_path: Path) -> None:
    """The same on a file system of 1 MiB; found by asking for the free space, and by reserving it."""

    def fill(pipe: int) -> None:
        try:
            mount_small(tmp_path)
        except OSError:
            os.write(pipe, b"forbidden")
            return
        if not asked:
            disk.free_bytes = lambda folder: 1 << 60
        try:
            DiskStore(tmp_path / "store", linear_records(4, width=300))
        except StorageError as error:
            left = os.listdir(tmp_path / "store" / "records")
            os.write(pipe, f"{error} {left}".encode())

    said = heard(*fork(fill))
    if said == "forbidden":
        pytest.skip("this user may not mount a file system")
    assert ("the records do not fit" if asked else "No space left on device") in said
    assert "needed" in said
    assert "free in" in said
    assert said.endswith("[]")


def test_a_disk_that_fills_up_in_a_write_says_so_and_leaves_the_store_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copy-on-write file systems need space for an overwrite; the half-written record is never read."""
    records = linear_records(2)
    flushed(tmp_path, records)
    store = DiskStore(tmp_path, records)
    real = os.pwritev

    def fill_up(fd: int, buffers: list[memoryview], offset: int) -> int:
        if len(buffers[0]) > 4096:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", fill_up)
    with pytest.raises(StorageError, match=f"{records[0].nbytes} bytes\\) needed"):
        store.write(0, 2, filled(records[0], random_values(records)))
    with pytest.raises(CheckpointError, match="no values"):
        store.weights(0, aligned_buffer(records[0].weight_bytes))
    store.close()
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"torn: record 0 \('layer.0'\) is updating at step 2"):
        DiskStore(tmp_path, records)
