"""Segments: aligned, zeroed, really there, and gone when the last view is."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openwafer.base import MIB, InputError, StorageError
from openwafer.wire import Segment
from openwafer.wire._memory import available_memory_bytes

kinds = pytest.mark.parametrize("make", [Segment.local, Segment.shared])
Make = Callable[[str, int], Segment]


@kinds
def test_a_segment_is_zeroed_writable_and_starts_on_a_page(make: Make) -> None:
    """Weights that were never set must be zero, and O_DIRECT refuses memory that is not aligned."""
    segment = make("state", 10_000)

    array = np.frombuffer(segment.buffer, np.uint8)

    assert array.size == 10_000
    assert array.ctypes.data % 4096 == 0
    assert not array.any()
    array[-1] = 7
    assert segment.buffer[9_999] == 7


@kinds
def test_direct_io_reads_straight_into_a_segment(make: Make, tmp_path: Path) -> None:
    """MemoryX reads records past the page cache; that works only into page-aligned memory."""
    path = tmp_path / "records"
    path.write_bytes(b"w" * 8192)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    segment = make("state", 8192)

    try:
        assert os.preadv(fd, [segment.buffer], 0) == 8192
    finally:
        os.close(fd)

    assert bytes(segment.buffer) == b"w" * 8192


@kinds
def test_a_segment_larger_than_memory_is_refused_with_the_sizes_and_the_way_out(make: Make) -> None:
    """The kernel would promise the memory and later kill a role; the coordinator must hear it first."""
    with pytest.raises(
        StorageError, match=r"'weights' needs 1024.00 TiB of memory, but .* is available.*lower"
    ):
        make("weights", 1 << 50)


def test_memory_that_runs_out_during_allocation_is_an_error_and_not_a_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another program may take the memory between the look and the allocation: a store must not SIGBUS."""

    def full(fd: int, offset: int, nbytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(StorageError, match="No space left on device"):
        Segment.shared("weights", MIB)


def test_all_pages_of_a_shared_segment_are_taken_at_once() -> None:
    """A page that is taken at its first store is a page that can be missing then."""
    segment = Segment.shared("weights", 3 * MIB + 1)

    assert segment._descriptor is not None
    assert os.fstat(segment._descriptor.fileno()).st_blocks * 512 >= 3 * MIB + 4096


def test_without_memfd_a_shared_segment_still_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sandboxes may refuse memfd_create; the file that stands in has lost its name before it is used."""
    monkeypatch.delattr(os, "memfd_create")
    before = set(os.listdir("/dev/shm"))

    segment = Segment.shared("weights", 4096)
    segment.buffer[0] = 1

    assert not [name for name in set(os.listdir("/dev/shm")) - before if name.startswith("openwafer")]


@kinds
def test_a_view_outlives_the_segment(make: Make) -> None:
    """A tensor over closed memory would read whatever comes there next, or crash the process."""
    segment = make("state", 4096)
    segment.buffer[0] = 9
    array = np.frombuffer(segment.buffer, np.uint8)

    segment.close()
    segment.close()

    assert array[0] == 9
    with pytest.raises(InputError, match="was closed"):
        _ = segment.buffer


@kinds
def test_a_segment_does_not_travel_outside_of_a_spawn(make: Make) -> None:
    """A pickle in a queue or a file would carry a descriptor that means nothing at its reader."""
    with pytest.raises(InputError, match=r"SharedTransport|spawn start method"):
        pickle.dumps(make("state", 1))


@kinds
def test_an_empty_segment_is_refused(make: Make) -> None:
    """No operating system maps zero bytes; the request is a mistake of the caller's."""
    with pytest.raises(InputError, match="at least 1"):
        make("state", 0)


def test_available_memory_is_the_least_that_any_control_group_leaves(tmp_path: Path) -> None:
    """In a container the machine's free memory means nothing; reclaimable file pages count as free."""
    files = {
        "proc/meminfo": "MemTotal: 64 kB\nMemAvailable:   48 kB\n",
        "proc/self/cgroup": "0::/jobs/a\n",
        "sys/fs/cgroup/jobs/a/memory.max": "max\n",
        "sys/fs/cgroup/jobs/memory.max": "20480\n",
        "sys/fs/cgroup/jobs/memory.current": "16384\n",
        "sys/fs/cgroup/jobs/memory.stat": "anon 12288\ninactive_file 4096\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert available_memory_bytes(tmp_path) == 8192
    (tmp_path / "sys/fs/cgroup/jobs/memory.max").write_text("max\n")
    assert available_memory_bytes(tmp_path) == 48 * 1024
    assert available_memory_bytes(tmp_path / "nothing") is None
