"""Flat files of token ids, as nanoGPT-style preparation scripts write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from openwafer.base import InputError
from openwafer.train.data._windows import Tokens, checked_index, count_windows, window

_DTYPES = ("uint16", "uint32", "int32", "int64", "uint8")


class TokenFile(Dataset[dict[str, Tensor]]):
    """Language-modelling windows over a memory-mapped file of token ids: a map-style dataset.

    Sample i is `input_ids` and `labels`, int64 [seq_len]; labels are the inputs shifted by one.
    Windows do not overlap. `tokens` is the number of ids in the file, `vocab_size` the bound given, or None.
    """

    def __init__(
        self, path: str | Path, seq_len: int, *, dtype: str | None = None, vocab_size: int | None = None
    ) -> None:
        """Map `path`: a `.npy` file of a flat array of integers, or else bare ids, little-endian.

        A bare file's type is `dtype` (uint16, uint32, ...), else the `dtype` of a JSON side file: for
        `train.bin`, the first of `train.bin.json`, `train.json`, `train.bin.meta`, `train.meta`; its
        `vocab_size` is taken too. With a `vocab_size`, a sample with an id beyond it raises InputError.

        Raises InputError if the file is missing, of unknown type, cut inside a token, of another shape,
        or shorter than one window.
        """
        if seq_len < 1:
            raise InputError(f"seq_len is {seq_len}; it must be at least 1")
        self.path, self.seq_len = Path(path), seq_len
        if not self.path.is_file():
            raise InputError(
                f"{self.path} is not there; write it with your tokenizer, or give its right path"
            )
        side = {} if self.path.suffix == ".npy" else _side_file(self.path)
        self._dtype = None if self.path.suffix == ".npy" else _dtype(self.path, dtype or side.get("dtype"))
        self.vocab_size: int | None = vocab_size if vocab_size is not None else side.get("vocab_size")
        self._tokens: Tokens | None = None
        self.tokens = int(self._open().shape[0])
        if not len(self):
            raise InputError(
                f"{self.path} holds {self.tokens} tokens, less than one window of {seq_len + 1}; "
                "lower seq_len or add text"
            )

    def __len__(self) -> int:
        return count_windows(self.tokens, self.seq_len)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = checked_index(index, len(self))
        sample = window(self._open(), place, self.seq_len)
        if self.vocab_size is not None:
            for ids in sample.values():
                low, high = int(ids.min()), int(ids.max())
                if low < 0 or high >= self.vocab_size:
                    raise InputError(
                        f"{self.path}: window {place} has token {low if low < 0 else high}, but vocab_size "
                        f"is {self.vocab_size}; check the tokenizer and the dtype (read as "
                        f"{self._open().dtype})"
                    )
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokens": None}  # a mapped array would be copied whole

    def _open(self) -> Tokens:
        if self._tokens is None:
            self._tokens = _open_npy(self.path) if self._dtype is None else _open_bare(self.path, self._dtype)
        return self._tokens


def _side_file(path: Path) -> dict[str, Any]:
    for name in (f"{path.name}.json", f"{path.stem}.json", f"{path.name}.meta", f"{path.stem}.meta"):
        side = path.with_name(name)
        if not side.is_file() or side == path:
            continue
        try:
            read = json.loads(side.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{side} cannot be read as JSON ({error}); mend it, or remove it and pass dtype"
            ) from error
        if not isinstance(read, dict) or not isinstance(read.get("vocab_size"), int | None):
            raise InputError(
                f'{side} must hold a JSON object such as {{"dtype": "uint16", "vocab_size": 50257}}'
            )
        return read
    return {}


def _dtype(path: Path, name: object) -> np.dtype[Any]:
    if name is None:
        raise InputError(
            f"the type of the token ids in {path} is unknown; pass dtype='uint16' (as nanoGPT writes them) "
            "or "
            f'\'uint32\', or put {{"dtype": "uint16"}} into {path.with_suffix(".json").name} next to it'
        )
    if name not in _DTYPES:
        raise InputError(f"{path}: dtype {name!r} is none of {', '.join(_DTYPES)}")
    return np.dtype(str(name)).newbyteorder("<")


def _open_bare(path: Path, dtype: np.dtype[Any]) -> Tokens:
    size = path.stat().st_size
    if size % dtype.itemsize:
        raise InputError(
            f"{path} has {size} bytes, which is no whole number of {dtype.name} tokens; it is truncated, or "
            "of another dtype"
        )
    return np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype)


def _open_npy(path: Path) -> Tokens:
    try:
        tokens: Tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read as a .npy file ({error}); it is truncated or of another kind"
        ) from error
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise InputError(
            f"{path} holds {tokens.dtype} of shape {list(tokens.shape)}, not a flat array of integers; save "
            "token ids with ravel()"
        )
    return tokens
