"""The engine of one machine: each job is a runner process in a session of its own, with the job's command below it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, final

import msgspec
import psutil

from openwafer.appliance._engine import Command, Engine, Outcome
from openwafer.appliance._folder import JobFolder, write_whole
from openwafer.base import EngineError, StorageError

_RUNNER = Path(__file__).with_name("_runner.py")
_START_S = 10.0
"""For a runner to take its lock: a few hundredths of a second on an idle machine."""


class _Exit(msgspec.Struct):
    status: int
    start: int


@final
class LocalEngine(Engine):
    """Starts, adopts and ends jobs on this machine. Thread-safe for different jobs."""

    def __init__(self) -> None:
        self._children: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, folder: JobFolder, command: Command) -> None:
        told = {
            "command": list(command.words),
            "folder": command.folder,
            "environment": dict(command.environment),
            "number": command.number,
        }
        if command.number > 1:
            self._end_leftovers(folder)
        write_whole(folder.start, msgspec.json.encode(told), mode=0o600)
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_RUNNER), str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise EngineError(
                f"a process for the job cannot be started: {error.strerror}; see how many processes and how much memory "
                "this machine allows"
            ) from error
        # From here on the job is found by its lock alone, so this waits until the runner holds it.
        end = time.monotonic() + _START_S
        while _last(folder).number < command.number and child.poll() is None:
            if time.monotonic() > end:
                child.kill()
                child.wait()
                raise EngineError(
                    f"the runner of {folder.path.name} did not begin within {_START_S:g} s; the machine is overloaded: "
                    "submit again later"
                )
            time.sleep(0.002)
        if _last(folder).number < command.number:
            raise StorageError(
                f"the runner of {folder.path.name} ended at once with status {child.returncode}; see whether the disk of "
                f"{folder.path} has room and may be written"
            )
        self._children[folder.path] = child

    def look(self, folder: JobFolder, number: int) -> Outcome:
        self._collect(folder)
        if _holder(folder) is not None:
            return Outcome("runs")
        ended = ending_of(folder, number)
        if ended is not None:
            return ended
        if _last(folder).number < number:
            return Outcome("absent")
        self._end_leftovers(folder)
        return Outcome("lost")

    def interrupt(self, folder: JobFolder) -> None:
        pid = _holder(folder)
        if pid is not None and _is_runner(pid, folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    def kill(self, folder: JobFolder) -> None:
        pid = _holder(folder)
        if pid is None or not _is_runner(pid, folder):
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._end_leftovers(folder)
        self._collect(folder)

    def _collect(self, folder: JobFolder) -> None:
        """A child that ended stays a zombie until its parent asks."""
        child = self._children.get(folder.path)
        if child is not None and child.poll() is not None:
            del self._children[folder.path]

    def _end_leftovers(self, folder: JobFolder) -> None:
        """Kill what still carries the job's name in its environment; without a runner nobody else does."""
        name = str(folder.path)
        for _ in range(50):
            left = [process for process in psutil.process_iter() if _belongs(process, name)]
            if not left:
                return
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=0.1)


def ending_of(folder: JobFolder, number: int) -> Outcome | None:
    """How the start of this number ended, if its runner wrote that down."""
    try:
        told = msgspec.json.decode(folder.exit.read_bytes(), type=_Exit)
    except (OSError, msgspec.MsgspecError):
        return None
    return Outcome("ended", told.status) if told.start == number else None


def _belongs(process: psutil.Process, folder: str) -> bool:
    try:
        return process.environ().get("OPENWAFER_JOB") == folder and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


class _Last(NamedTuple):
    """The runner that had the job's folder last."""

    pid: int
    number: int


def _last(folder: JobFolder) -> _Last:
    try:
        words = folder.alive.read_bytes().split()
        return _Last(int(words[0]), int(words[1]))
    except (OSError, ValueError, IndexError):
        return _Last(0, 0)


def _is_runner(pid: int, folder: JobFolder) -> bool:
    """On storage that hosts share, the job's lock may be held on another host, and the number mean nothing here."""
    try:
        return psutil.Process(pid).cmdline()[-2:] == [str(_RUNNER), str(folder.path)]
    except (psutil.Error, OSError):
        return False


def _holder(folder: JobFolder) -> int | None:
    """The process id of the job's runner, if it lives: a lock cannot be mistaken as a process id can."""
    try:
        fd = os.open(folder.alive, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _last(folder).pid or None
    except OSError:
        return None
    finally:
        os.close(fd)
    return None
