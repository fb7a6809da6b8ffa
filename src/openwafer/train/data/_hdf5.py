"""HDF5 files of tokenised samples, in the layouts that Model Zoo style preparation scripts write."""

from __future__ import annotations

import bisect
import os
import threading
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from openwafer.base import InputError
from openwafer.train.data._windows import checked_index

_PACKED = "data"
_ROWS = ("input_ids", "attention_mask", "labels")
_OPEN_FILES = 32  # well below the usual limit of 1024 per process, however many files a folder has


class TokenHdf5(Dataset[dict[str, Tensor]]):
    """Tokenised samples from one or many HDF5 files: a map-style dataset over all of them.

    Each file holds either `data` [N, 3, S], whose rows are input ids, attention (loss) mask and
    labels, or `input_ids` [N, S] and, where present, `labels` and `attention_mask` [N, S]. A sample is
    a dict of those, int64 [S]. Labels are taken as they stand (the usual scripts have shifted them).
    `files` are the files in order, `seq_len` is S, `keys` the names in a sample.
    """

    def __init__(self, path: str | Path, *, ignore_index: int | None = None) -> None:
        """Index a file, or all `*.h5` and `*.hdf5` below a folder in sorted order.

        With `ignore_index` (such as -100, which cross_entropy skips), labels are set to it wherever the
        mask is 0. Every file is opened once here, so that a damaged one is found before the run.

        Raises InputError if there is no file, if one is truncated or of another layout, or if the files
        disagree about the sequence length or the datasets that they hold.
        """
        self.files = _files(Path(path))
        self._ignore_index = ignore_index
        self._reset()
        counts: list[int] = []
        for number, file in enumerate(self.files):
            samples, seq_len, keys = _layout(file, self._handle(file))
            if number == 0:
                self.seq_len, self.keys = seq_len, keys
            elif (seq_len, keys) != (self.seq_len, self.keys):
                raise InputError(
                    f"{file} holds {', '.join(keys)} of length {seq_len}, but {self.files[0]} holds "
                    f"{', '.join(self.keys)} of length {self.seq_len}; prepare all files alike"
                )
            counts.append(samples)
        self._ends = list(accumulate(counts))
        if not self._ends[-1]:
            raise InputError(f"{path} holds no samples; check the script that wrote it")
        if ignore_index is not None and not {"labels", "attention_mask"} <= set(self.keys):
            raise InputError(
                f"{path} holds {', '.join(self.keys)}; ignore_index needs labels and attention_mask"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = checked_index(index, len(self))
        number = bisect.bisect_right(self._ends, place)
        row = place - (self._ends[number - 1] if number else 0)
        file = self.files[number]
        with self._lock:
            handle = self._handle(file)
            try:
                if _PACKED in handle:
                    columns = list(np.asarray(handle[_PACKED][row]))
                else:
                    columns = [np.asarray(handle[key][row]) for key in self.keys]
            except (OSError, KeyError, ValueError, IndexError) as error:
                raise InputError(
                    f"sample {row} of {file} cannot be read ({error}); the file is damaged"
                ) from error
        sample = {
            key: torch.from_numpy(column.astype(np.int64))
            for key, column in zip(self.keys, columns, strict=True)
        }
        if self._ignore_index is not None:
            sample["labels"][sample["attention_mask"] == 0] = self._ignore_index
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.__dict__.items() if name not in ("_lock", "_handles", "_pid")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._handles: OrderedDict[Path, Any] = OrderedDict()
        self._pid = os.getpid()

    def _handle(self, file: Path) -> Any:
        if self._pid != os.getpid():  # after a fork, a handle would share its file position with the parent
            self._handles, self._pid = OrderedDict(), os.getpid()
        handle = self._handles.pop(file, None)
        if handle is None:
            handle = _open(file)
            while len(self._handles) >= _OPEN_FILES:
                self._handles.popitem(last=False)[1].close()
        self._handles[file] = handle
        return handle


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise InputError(f"{path} is not there; give an HDF5 file or a folder of them")
    files = sorted(file for file in path.rglob("*") if file.suffix in (".h5", ".hdf5") and file.is_file())
    if not files:
        raise InputError(f"{path} holds no *.h5 or *.hdf5 file; check the path")
    return tuple(files)


def _open(file: Path) -> Any:
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise InputError(
            f"{file} cannot be opened as HDF5 ({error}); it is truncated, locked or of another kind"
        ) from error


def _layout(file: Path, handle: Any) -> tuple[int, int, tuple[str, ...]]:
    """Samples, sequence length and keys of one file, its datasets checked."""
    if _PACKED in handle:
        shape = _shape(file, handle, _PACKED)
        if len(shape) != 3 or shape[1] != len(_ROWS):
            raise InputError(
                f"{file}: {_PACKED!r} has shape {list(shape)}, need [samples, 3, sequence] with rows "
                f"{', '.join(_ROWS)}"
            )
        return shape[0], shape[2], _ROWS
    keys = tuple(key for key in _ROWS if key in handle)
    if "input_ids" not in keys:
        raise InputError(
            f"{file} has neither {_PACKED!r} nor 'input_ids', but {', '.join(sorted(handle)) or 'nothing'}; "
            "rename its datasets, or prepare it with `data` [samples, 3, sequence]"
        )
    shapes = {key: _shape(file, handle, key) for key in keys}
    shape = shapes["input_ids"]
    for key, other in shapes.items():
        if len(other) != 2 or other != shape:
            raise InputError(
                f"{file}: {key!r} has shape {list(other)}; need [samples, sequence] as input_ids has "
                f"({list(shape)})"
            )
    return shape[0], shape[1], keys


def _shape(file: Path, handle: Any, key: str) -> tuple[int, ...]:
    found = handle[key]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "iub":
        kind = f"of {found.dtype}" if isinstance(found, h5py.Dataset) else "a group"
        raise InputError(f"{file}: {key!r} is {kind}, not a dataset of integers; store token ids as int32")
    return tuple(found.shape)
