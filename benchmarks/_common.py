"""What the benchmark scripts share: workers as processes, folders that go away, tables, figures as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from _worker import RESULT, Settings, Worker, answer

from openwafer.base import InputError, RoleLost, StorageError, WaferError, format_bytes

ROOT = Path(__file__).parent.parent
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""Settings of the allocator: glibc keeps freed pages, and PyTorch asks for huge ones."""
SHOWN_LINES = 30
"""How much of a failed worker's output is shown."""
LEAVE_S = 5.0


def parser_of(doc: str | None, *, folder: bool = True) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring, with the options that every script has; `folder`: it writes files."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if folder:
        parser.add_argument(
            "--folder", type=Path, default=Path("."), help="where the temporary folder of the run is made"
        )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser


def entry(main: Callable[[], None], workers: Mapping[str, Worker]) -> None:
    """Run a script: as `main`, or as one of its workers when `run_worker` started it.

    A WaferError ends it with its text and status 1, Ctrl-C with status 130; temporary folders are gone by then.
    """
    signal.signal(signal.SIGTERM, _end)  # as after Ctrl-C, folders and workers go first
    try:
        if sys.argv[1:2] == ["--worker"]:
            answer(workers, sys.argv[2:])
        else:
            main()
    except WaferError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _end(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run_worker(
    script: str | Path,
    name: str,
    settings: Settings,
    *,
    python: str | Path = sys.executable,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """The figures of one worker of a script, run as a process of its own. It ends, with its children, in any case.

    Raises RoleLost with the end of what it printed if it fails, is killed or takes longer than `timeout_s`.
    """
    command = [str(python), str(script), "--worker", name, json.dumps(settings)]
    worker = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = worker.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end_group(worker)
        output = worker.communicate()[0]
        raise RoleLost(
            f"{name} took longer than {timeout_s:.0f} s and was ended; its last lines:\n{_tail(output)}"
        ) from None
    finally:
        _end_group(worker)
    results = [line for line in output.splitlines() if line.startswith(RESULT)]
    if worker.returncode or not results:
        ending = f"killed by signal {-worker.returncode}" if worker.returncode < 0 else "failed"
        raise RoleLost(f"{name} {ending}; its last lines:\n{_tail(output)}")
    figures: dict[str, Any] = json.loads(results[-1].removeprefix(RESULT))
    return figures


def _end_group(worker: subprocess.Popen[str]) -> None:
    """End a worker and what it started: first so that shared memory is given back, then for certain."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(worker.pid, number)
        except ProcessLookupError:
            break
        end = time.monotonic() + LEAVE_S
        while worker.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
    worker.poll()


def _tail(output: str) -> str:
    return "\n".join(output.rstrip().splitlines()[-SHOWN_LINES:])


@contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A new folder below `parent`, removed at the end, also after an error, Ctrl-C or SIGTERM.

    Raises StorageError if it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=parent)).resolve()
    except OSError as error:
        raise StorageError(
            f"no temporary folder can be made in {parent} ({error.strerror}); name another with --folder"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def need_disk(folder: Path, needed: int, what: str) -> None:
    """Say what the disk must hold and does hold. Raises StorageError if it is too little."""
    free = shutil.disk_usage(folder).free
    print(f"disk: {what} need {format_bytes(needed)}; {folder} has {format_bytes(free)} free", flush=True)
    if free < needed:
        raise StorageError(
            f"{folder} has {format_bytes(free)} free, but {what} need {format_bytes(needed)}; make room, or name a "
            "folder on a larger disk with --folder"
        )


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown, numbers aligned to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for row in [cells[0], rule, *cells[1:]]:
        first, *others = row
        padded = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        print("| " + " | ".join(padded) + " |")


def finish(options: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Write the figures, with the machine, the options and the command, to the file of `--json`."""
    if options.json is None:
        return
    whole = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "options": {name: _plain(value) for name, value in vars(options).items()},
        **figures,
    }
    try:
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    except OSError as error:
        raise StorageError(
            f"the figures cannot be written to {options.json} ({error.strerror}); name another file"
        ) from None


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def machine() -> dict[str, Any]:
    """What the figures were measured on: CPU, cores, memory, and the versions that compute."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def describe_machine() -> str:
    """The same in one line."""
    found = machine()
    return (
        f"torch {found['torch']}, {found['cpu']}, {found['cores']} cores, "
        f"{format_bytes(found['memory'])} of memory, {found['capability']}"
    )


def check_steps(steps: int, skipped: int = 1) -> None:
    """Raises InputError unless a step is left when the first ones, which compile and fault pages in, do not count."""
    if steps <= skipped:
        raise InputError(
            f"the first {'step' if skipped == 1 else f'{skipped} steps'} of a run cannot count; give --steps "
            f"{skipped + 1} or more"
        )


def median_step(rounds: Sequence[Mapping[str, Any]], what: str = "times", skipped: int = 1) -> float:
    """Median over the steps of all rounds but the first of each, which `check_steps` says are not all."""
    values: list[float] = [value for figures in rounds for value in figures[what][skipped:]]
    return statistics.median(values)


def largest_difference(losses: Sequence[float], reference: Sequence[float]) -> float:
    """Largest relative difference between two runs' losses, step by step."""
    return max(abs(a - b) / max(abs(b), 1e-30) for a, b in zip(losses, reference, strict=True))


def mib(nbytes: float) -> str:
    """Bytes as whole MiB, for a column that says so."""
    return f"{nbytes / 2**20:.0f}"
