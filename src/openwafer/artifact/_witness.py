"""What a recipe's code read while it ran: its modules, files and folders, and whatever makes its result unrepeatable."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, final

from openwafer.artifact._sources import NO_FILE, loaded_modules, token_of
from openwafer.artifact._unheard import unheard

OUTSIDE = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.startfile",
    "os.system",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "urllib.Request",
}
"""Audit events of asking other programs and other machines: what they answer cannot be looked up again."""
FOLDERS = {"os.listdir", "os.scandir"}
PASSED_OVER = ("/dev/null", "/dev/urandom")
STREAM = "a stream"
"""Of a pipe or a device, which cannot be read again."""


@final
class Witness:
    """Notes what the code within `watching` reads. Other threads' reading counts as well.

    It sees what Python's audit events tell: files opened, folders listed, libraries loaded, programs and connections
    started. It does not see the clock, random numbers, or a question whether a file exists, unless it looks closely.

    base: what lies below it is noted by its place there, so that a copy of a recipe elsewhere counts as the same.
    """

    def __init__(self, base: Path, since: float | None = None) -> None:
        """since: Unix time, now by default. What was written after it may not be what was read."""
        self._base = str(base.resolve()) + os.sep
        self.since = time.time() if since is None else since
        self._paths: set[str] = set()
        self._asked: set[str] = set()
        self.unrepeatable = ""
        """What the code did whose result no look at files can confirm; "" if nothing."""

    @contextmanager
    def watching(self, *, closely: bool = False) -> Iterator[None]:
        """Note what is read within. closely: also what `unheard` tells, of this thread; the code runs slower."""
        _watch(self)
        try:
            with unheard(self._doubt, self._ask) if closely else nullcontext():
                yield
        finally:
            _watching.discard(self)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit event of this process."""
        if event in OUTSIDE:
            self._doubt(event)
        elif event in FOLDERS or event == "ctypes.dlopen":
            self._hear_path(args[0] or ".")
        elif event == "open" and not (isinstance(args[2], int) and args[2] & os.O_WRONLY):
            self._hear_path(args[0])

    def _hear_path(self, path: object) -> None:
        # Modules are noted as such; what Python's import asks of folders and its own cache says nothing more.
        if not sys._getframe(3).f_code.co_filename.startswith("<frozen importlib"):
            self._note(path)

    def _note(self, path: object) -> None:
        if isinstance(path, (str, bytes)):  # a number is a file that was open already
            text = os.path.abspath(os.fsdecode(path))
            if text not in PASSED_OVER:
                self._paths.add(text)

    def _ask(self, path: object) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            self._asked.add(os.path.abspath(os.fsdecode(path)))

    def _doubt(self, what: str) -> None:
        self.unrepeatable = self.unrepeatable or what

    def read(self) -> dict[str, str]:
        """Every file and folder that was read, by its place, with what tells it from another."""
        return self._check(self._paths)

    def asked(self) -> dict[str, str]:
        """Every place that was asked for, and what was found there: the file, the mere folder, or nothing."""
        return {self._place(path): self.find(self._place(path)) for path in sorted(self._asked)}

    def modules(self) -> dict[str, str]:
        """The same of every module that is loaded."""
        return self._check(map(str, loaded_modules().values()))

    def _check(self, paths: Iterable[str]) -> dict[str, str]:
        found = {}
        for path in sorted(paths):
            place = self._place(path)
            found[place] = self.look(place)
            if found[place] == STREAM:
                self._doubt(place)
            elif (
                found[place] not in (NO_FILE, "")
                and os.path.isfile(path)
                and os.stat(path).st_mtime > self.since
            ):
                self._doubt(f"{place}, which has changed meanwhile")
        return found

    def find(self, place: str) -> str:
        """As `look`, but that whatever lies in a folder is the same: only where it is counts."""
        path = self._path(place)
        return f"a folder, {os.path.realpath(path)}" if path.is_dir() else self.look(place)

    def look(self, place: str) -> str:
        """What tells the file or folder at a place, as `read` and `modules` name it, from another."""
        path = self._path(place)
        try:
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                return "\n".join(sorted(os.listdir(path)))
            if not stat.S_ISREG(mode):
                return STREAM
        except OSError:
            return NO_FILE
        return token_of(path)

    def _path(self, place: str) -> Path:
        return Path(place if os.path.isabs(place) else self._base + place)

    def _place(self, path: str) -> str:
        return path.removeprefix(self._base)


_watching: set[Witness] = set()
_listens: list[bool] = []


def _watch(witness: Witness) -> None:
    if not _listens:
        # Python never takes an audit hook back, so there is one for all, and it does nothing while nobody watches.
        _listens.append(True)
        sys.addaudithook(_hear)
    _watching.add(witness)


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _watching:
        for witness in tuple(_watching):
            witness.hear(event, args)
