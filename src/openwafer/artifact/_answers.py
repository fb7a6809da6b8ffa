"""What a user's code answered, kept for as long as all that decided the answer is the same."""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, final

import msgspec

from openwafer.artifact._sources import NO_FILE, environment, is_installed, loaded_modules
from openwafer.artifact._witness import Witness

MOST = 100
"""Answers kept in one folder; those used longest ago go."""
_Answer = TypeVar("_Answer")


class _Kept(msgspec.Struct, frozen=True):
    looks: dict[str, str]
    asked: dict[str, str]
    offers: dict[str, str]
    answer: msgspec.Raw


@final
class Answers:
    """The answer to one question: kept where an earlier process asked it, or asked now.

    It is found by the question, the working folder, the environment, Python, where Python looks for modules, and this
    machine. It holds while every module that was loaded and every file and folder that the code read or asked for look as
    they did, and no folder that modules came from offers another. Code that started programs, opened connections, looked
    at the clock or drew random numbers is asked every time. What C code does unseen by Python's audit events is not known.
    """

    def __init__(self, folder: Path, question: Any, base: Path) -> None:
        """folder: of all answers. question: all that the asker chose, as data that JSON takes. base: see `Witness`.

        To be made before the code is loaded.
        """
        told = {
            "question": question,
            "base": str(base.resolve()),
            "folder": os.getcwd(),
            "environment": environment(),
            "python": [sys.version, sys.executable, *sys.path],
            "machine": _machine(),
        }
        key = hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()
        self._file = folder / f"{key[:32]}.json"
        self._witness = Witness(base)

    def find(self, kind: type[_Answer]) -> _Answer | None:
        """The answer, if it still holds."""
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            answer = msgspec.json.decode(kept.answer, type=kind)
            seen = (
                (kept.offers, _offer),
                (kept.asked, self._witness.find),
                (kept.looks, self._witness.look),
            )
            if all(tell(place) == told for places, tell in seen for place, told in places.items()):
                os.utime(self._file)
                return answer
        except (OSError, msgspec.MsgspecError):
            pass
        return None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around all code that decides the answer."""
        with self._witness.watching(closely=True):
            yield

    def keep(self, answer: Any) -> None:
        """Keep what the watched code answered, if it can be found again. A folder that cannot be written only costs time."""
        looks = self._witness.modules() | self._witness.read()
        asked = self._witness.asked()
        if self._witness.unrepeatable:
            return
        own = {str(file.parent) for file in loaded_modules().values() if not is_installed(file)}
        offers = {folder: _offer(folder) for folder in own | {os.path.abspath(entry) for entry in sys.path}}
        data = msgspec.json.encode(_Kept(looks, asked, offers, msgspec.Raw(msgspec.json.encode(answer))))
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fd, partial = tempfile.mkstemp(prefix=".", dir=self._file.parent)
            with open(fd, "wb") as file:
                file.write(data)
            os.replace(partial, self._file)
            _prune(self._file.parent)


def _offer(folder: str) -> str:
    """What an import could find in a folder, as a text that differs when that does."""
    try:
        if is_installed(Path(folder, "any")):
            return str(os.stat(folder).st_mtime_ns)
        suffixes = tuple(importlib.machinery.all_suffixes())
        with os.scandir(folder) as entries:
            return "\n".join(
                sorted(
                    entry.name
                    for entry in entries
                    # A folder without `__init__` hides no module elsewhere.
                    if entry.name.endswith(suffixes)
                    or os.path.exists(os.path.join(entry.path, "__init__.py"))
                )
            )
    except OSError:
        return NO_FILE


def _machine() -> list[str]:
    """What code may ask of this machine without any file: its name, cores and GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    gpus = sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))
    return [*os.uname(), str(os.cpu_count()), str(cores), *gpus]


def _prune(folder: Path) -> None:
    files = [entry for entry in os.scandir(folder) if entry.name.endswith(".json")]
    for old in sorted(files, key=lambda entry: entry.stat().st_mtime)[:-MOST]:
        os.unlink(old)
