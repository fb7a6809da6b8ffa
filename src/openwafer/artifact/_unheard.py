"""What no audit event tells of Python code that runs: that it asked the clock, chance, or whether a file is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from openwafer.artifact._sources import is_installed

UNSURE = {
    ("datetime", "now"),
    ("datetime", "today"),
    ("datetime", "utcnow"),
    ("posix", "urandom"),
    ("random", "getrandbits"),
    ("random", "random"),
    ("time", "asctime"),
    ("time", "ctime"),
    ("time", "gmtime"),
    ("time", "localtime"),
    ("time", "strftime"),
    ("time", "time"),
    ("time", "time_ns"),
}
"""Functions of C, by module, that answer otherwise the next time. Clocks that only tell durations are not among them."""
LOOKS = {("posix", "access"), ("posix", "lstat"), ("posix", "stat")}
_HEARD = UNSURE | LOOKS
_NAMES = {name for _, name in _HEARD}
_ASKS = ("pathlib", "genericpath", "posixpath")
"""Modules of Python that ask for others whether a file is there, with the path in one of the variables below."""
_PATHS = ("path", "filename", "self")


@contextmanager
def unheard(unsure: Callable[[str], None], looked: Callable[[object], None]) -> Iterator[None]:
    """Within it, of this thread: `unsure` gets the names of such functions, `looked` paths that may be there or not.

    What installed packages do while they are imported does not count: their files say what comes of it. Code runs slower;
    what a profiler would have seen of it is not told to one.
    """

    def hear(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or getattr(function, "__name__", "") not in _NAMES:
            return
        called = (_module_of(function), function.__name__)
        if called not in _HEARD or _is_import_of_installed(frame, outside):
            return
        if called in UNSURE:
            unsure(".".join(called))
        elif frame.f_globals.get("__name__", "").partition(".")[0] in _ASKS:
            looked(next((frame.f_locals[name] for name in _PATHS if name in frame.f_locals), None))

    # Whoever watches may itself be run by an installed module, as `python -m` and pytest's workers do.
    outside = set(_callers(sys._getframe()))
    before = sys.getprofile()
    sys.setprofile(hear)
    try:
        yield
    finally:
        sys.setprofile(before)


def _module_of(function: Any) -> str:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return owner.__module__
    return getattr(owner, "__name__", None) or type(owner).__module__


def _is_import_of_installed(frame: FrameType, outside: set[FrameType]) -> bool:
    for each in _callers(frame):
        if each in outside:
            return False
        code = each.f_code
        if code.co_name == "<module>":
            return code.co_filename.startswith("<frozen") or is_installed(Path(code.co_filename))
    return False


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and all that stand below it."""
    while frame is not None:
        yield frame
        frame = frame.f_back
