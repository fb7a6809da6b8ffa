"""What a confined process may use: it is refused more, or ended with the reason."""

from __future__ import annotations

from dataclasses import replace

from confined import LIMITS, MIB, run, tier_or_skip


def test_memory_beyond_the_limit_is_refused(tier: str) -> None:
    """In one process the kernel refuses, and Python can say where."""
    story = run("kept = []\nwhile True: kept.append(bytearray(1 << 20))", tiers=[tier])

    assert story.lines[-1] == "MemoryError"
    assert story.ended is not None
    assert story.ended.code == 1


def test_memory_that_is_shared_counts_too(tier: str) -> None:
    """The kernel's limit does not see it; the supervisor does, and ends the process."""
    story = run(
        "import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 1 << 24)); kept[-1].write(b'x' * (1 << 24))",
        tiers=[tier],
    )

    assert story.ended is not None
    assert story.ended.contained
    assert "used more than its 256 MiB of memory" in story.ended.why


def test_memory_of_many_processes_is_counted_together() -> None:
    """Each stays below the limit of one."""
    tier_or_skip("namespaces")

    story = run(
        "import os, time\nfor _ in range(8):\n    if not os.fork(): kept = bytearray(b'x' * (100 << 20)); time.sleep(99)\n"
        "time.sleep(1000)"
    )

    assert story.ended is not None
    assert story.ended.contained
    assert "of memory" in story.ended.why


def test_processes_without_end_are_ended() -> None:
    """All of them at once, when there are more than the limit."""
    tier_or_skip("namespaces")

    story = run(
        "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(1)",
        limits=replace(LIMITS, memory_bytes=4096 * MIB),
    )

    assert story.ended is not None
    assert story.ended.contained
    assert "more than its 40 processes and threads" in story.ended.why


def test_threads_without_end_are_ended(tier: str) -> None:
    """They count like processes."""
    story = run(
        "import threading, time\nthreading.stack_size(1 << 16)\n"
        "for _ in range(60): threading.Thread(target=time.sleep, args=(99,)).start()",
        tiers=[tier],
    )

    assert story.ended is not None
    assert story.ended.contained
    assert "more than its 40 processes and threads" in story.ended.why


def test_without_a_namespace_no_process_can_be_started() -> None:
    """There nothing would gather those that outlive their parent."""
    tier_or_skip("landlock")

    story = run(
        "import os\ntry:\n    os.fork()\nexcept OSError as error:\n    print(error.strerror)",
        tiers=["landlock"],
    )

    assert story.text == "Operation not permitted"
    assert [refused.why for refused in story.refused] == ["starts processes"]


def test_processor_time_has_an_end_where_it_is_limited(tier: str) -> None:
    """A pipeline may compute for days, so there is none unless it is asked for."""
    story = run("while True: pass", tiers=[tier], limits=replace(LIMITS, cpu_s=1.0))

    assert story.ended is not None
    assert story.ended.contained
    assert "1 s of processor time" in story.ended.why


def test_open_files_are_limited(tier: str) -> None:
    """Every open local socket holds memory of the kernel's that nobody counts."""
    story = run(
        "import os\ntry:\n    while True: os.dup(0)\nexcept OSError as error:\n    print(error.strerror)",
        tiers=[tier],
    )

    assert story.text == "Too many open files"


def test_an_exit_status_and_a_signal_are_told(tier: str) -> None:
    """The reason that the log gives is the one that the kernel gave."""
    exited = run("import os\nos._exit(7)", tiers=[tier])
    crashed = run("import ctypes\nctypes.string_at(0)", tiers=[tier])

    assert exited.ended is not None
    assert (exited.ended.code, exited.ended.contained) == (7, False)
    assert crashed.ended is not None
    assert crashed.ended.code == -11
