"""Files of lines that grow, read on from where the last look ended: what a page asks every second costs what is new."""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar, final

_CHUNK = 1 << 20
_LONGEST = 4 << 20
"""No line that means anything here is longer."""


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """A file of a job, for reading. Raises OSError for anything but a file: a pipe there would be waited for for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no file")
        yield file


def read_plain(path: Path, most: int) -> bytes:
    """All of such a file. Raises OSError if it cannot be read, or has more bytes than `most`."""
    with open_plain(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(f"{path} has more than {most} bytes")
    return data


class Reader(Protocol):
    """What takes the lines of a file in their order."""

    def add(self, line: bytes) -> None: ...


_Reader = TypeVar("_Reader", bound=Reader)


@final
class Tails(Generic[_Reader]):
    """A reader for each of the files that were asked for last. Thread-safe.

    A file that was replaced by another, or is shorter than before, is read anew by a new reader. A last line that is not
    complete waits for its end.
    """

    def __init__(self, make: Callable[[], _Reader], most: int = 64) -> None:
        """make: a reader that has read nothing. most: so many files are remembered."""
        self._make = make
        self._most = most
        self._tails: OrderedDict[Path, _Tail[_Reader]] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, path: Path) -> _Reader:
        """The file's reader, which has every whole line. A file that is not there, or cannot be read, has no lines."""
        with self._lock:
            tail = self._tails.pop(path, None) or _Tail(self._make)
            self._tails[path] = tail
            while len(self._tails) > self._most:
                self._tails.popitem(last=False)
        with tail.lock:
            return tail.read(path)


class _Tail(Generic[_Reader]):
    def __init__(self, make: Callable[[], _Reader]) -> None:
        self.lock = threading.Lock()
        self._make = make
        self._begin(None)

    def _begin(self, file: tuple[int, int] | None) -> None:
        self._file, self._place, self._rest = file, 0, b""
        self._reader = self._make()

    def read(self, path: Path) -> _Reader:
        try:
            with open_plain(path) as file:
                now = os.fstat(file.fileno())
                if (now.st_dev, now.st_ino) != self._file or now.st_size < self._place:
                    self._begin((now.st_dev, now.st_ino))
                file.seek(self._place)
                while piece := file.read(_CHUNK):
                    self._place += len(piece)
                    *lines, self._rest = (self._rest + piece).split(b"\n")
                    for line in lines:
                        self._reader.add(line)
                    if len(self._rest) > _LONGEST:
                        self._rest = b""
        except OSError:
            self._begin(None)
        return self._reader
