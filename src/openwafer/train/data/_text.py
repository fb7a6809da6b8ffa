"""Text of this machine as bytes: a vocabulary of 256 and no tokenizer."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from openwafer.base import MIB, InputError, StorageError, format_bytes
from openwafer.train.data._windows import Tokens, checked_index, count_windows, window

Split = Literal["train", "eval"]
_SNIFF_BYTES = 8192
_NOT_OURS = frozenset({"test", "tests", "site-packages", "dist-packages", "__pycache__"})
_TABLES = frozenset({"encodings", "pydoc_data"})  # sorted early and large, and no code to learn from


class ByteText(Dataset[dict[str, Tensor]]):
    """Byte-level language-modelling windows over text files: a map-style dataset.

    Sample i is `input_ids` and `labels`, int64 [seq_len], values 0..255; labels are the inputs shifted
    by one. Windows do not overlap. A 0 byte ends each file. `vocab_size` is 256, `files` the files
    read, `text_bytes` the bytes in all.
    """

    vocab_size = 256

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        seq_len: int,
        *,
        pattern: str | None = None,
        limit_bytes: int | None = None,
        store: str | Path | None = None,
    ) -> None:
        """Read files, in the order given, and folders, in sorted order of relative names.

        Of a folder are taken: files below it whose name or relative path matches `pattern` (such as
        `*.py`), or, without a pattern, every file that has no 0 byte in its first 8 KiB; hidden files
        and folders, empty files and linked folders are left out. Reading ends at `limit_bytes`. The
        text is kept in memory or, with `store`, written to that file and mapped from there, which
        costs no memory in the processes that share it.

        Raises InputError for a missing or unreadable path, no matching file, or less text than one
        window; StorageError if `store` cannot be written.
        """
        if seq_len < 1:
            raise InputError(f"seq_len is {seq_len}; it must be at least 1")
        if limit_bytes is not None and limit_bytes <= seq_len:
            raise InputError(
                f"limit_bytes={limit_bytes} holds no window of seq_len={seq_len}; allow {seq_len + 1}"
            )
        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        self._store = Path(store).absolute() if store is not None else None
        found = [file for path in given for file in _expand(Path(path), pattern)]
        found = [file for file in found if file.absolute() != self._store]  # of an earlier run, in the folder
        if not found:
            what = f"file matching {pattern!r}" if pattern else "text file"
            raise InputError(
                f"no {what} in {', '.join(map(str, given)) or 'an empty list of paths'}; check the path"
            )
        self.seq_len = seq_len
        self.files: tuple[Path, ...] = ()
        self._tokens: Tokens | None = None
        if self._store is None:
            text = bytearray()
            for chunk in self._read(found, limit_bytes):
                text += chunk
            self._tokens = np.frombuffer(text, dtype=np.uint8)
            self.text_bytes = len(text)
        else:
            self.text_bytes = _write(self._store, self._read(found, limit_bytes))
        if not len(self):
            raise InputError(
                f"{len(self.files)} files of "
                f"{', '.join(map(str, given[:3]))}{' ...' if len(given) > 3 else ''} hold {self.text_bytes} "
                f"bytes, less than one window of {seq_len + 1}; lower seq_len or add text"
            )

    def __len__(self) -> int:
        return count_windows(self.text_bytes, self.seq_len)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = checked_index(index, len(self))
        if self._tokens is None:
            assert self._store is not None
            self._tokens = np.memmap(self._store, dtype=np.uint8, mode="r")
        return window(self._tokens, place, self.seq_len)

    def __getstate__(self) -> dict[str, Any]:
        gone = {"_tokens": None} if self._store is not None else {}  # a mapped array would be copied whole
        return self.__dict__ | gone

    def _read(self, files: list[Path], limit_bytes: int | None) -> Iterator[bytes]:
        left = limit_bytes
        for file in files:
            try:
                with file.open("rb") as stream:
                    text = stream.read() if left is None else stream.read(left)
            except OSError as error:
                raise InputError(
                    f"{file} cannot be read: {error.strerror}; leave it out or mend it"
                ) from error
            if not text:
                continue
            self.files += (file,)
            text = (text + b"\0")[:left]
            yield text
            if left is not None:
                left -= len(text)
                if left <= 0:
                    return


def python_stdlib(seq_len: int, split: Split = "train", *, limit_bytes: int = 4 * MIB) -> ByteText:
    """The source of this machine's own Python standard library as `ByteText`: data that needs no download.

    `*.py` in sorted order, without test folders, code tables and installed packages, until
    `limit_bytes`. A hash of the relative name puts about 95 of 100 files into `train` and the rest into
    `eval`, so that a file's split is the same everywhere; the text depends on the Python version.

    Raises InputError for another split, or if this Python has no library folder (a zipped or stripped one).
    """
    if split not in ("train", "eval"):
        raise InputError(f"there is no split {split!r}; use 'train' or 'eval'")
    library = Path(sysconfig.get_path("stdlib"))
    files = [
        file
        for file in _expand(library, "*.py", _NOT_OURS | _TABLES)
        if _in_eval(file.relative_to(library).as_posix()) == (split == "eval")
    ]
    if not files:
        raise InputError(
            f"{library} holds no Python source; this Python is stripped, pass a folder to ByteText"
        )
    return ByteText(files, seq_len, limit_bytes=limit_bytes)


def _in_eval(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100 < 5


def _expand(path: Path, pattern: str | None, skip: frozenset[str] = frozenset()) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} is not there; give an existing text file or folder")
    found: list[tuple[str, Path]] = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skip]
        for name in names:
            file = Path(folder, name)
            relative = file.relative_to(path).as_posix()
            if name.startswith(".") or (pattern and not _matches(name, relative, pattern)):
                continue
            if file.is_file() and (pattern or _is_text(file)):
                found.append((relative, file))
    return [file for _, file in sorted(found)]


def _matches(name: str, relative: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(relative, pattern)


def _is_text(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return b"\0" not in stream.read(_SNIFF_BYTES)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; leave it out or mend it") from error


def _write(store: Path, chunks: Iterator[bytes]) -> int:
    """Write chunks to `store` whole or not at all, and return their bytes."""
    total = 0
    try:
        with tempfile.NamedTemporaryFile(dir=store.parent, prefix=store.name, delete=False) as stream:
            try:
                for chunk in chunks:
                    total += stream.write(chunk)
                stream.close()
                Path(stream.name).replace(store)
            except BaseException:
                Path(stream.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StorageError(
            f"{store} cannot be written after {format_bytes(total)}: {error.strerror}; free space or choose "
            "another store"
        ) from error
    return total
