"""Handwritten digits: the small set that comes with scikit-learn, and MNIST's own files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from openwafer.base import InputError
from openwafer.train.data._text import Split
from openwafer.train.data._windows import checked_index

_EVAL_EVERY = 5
_MAGIC = {
    "images": 0x00000803,
    "labels": 0x00000801,
}  # unsigned bytes, 3 dims or 1: the IDX format's own words
_PARTS = {"train": "train", "eval": "t10k"}


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Grey images as flat vectors with their labels: a map-style dataset.

    Sample i is (image, label): float32 [pixels], 0..1, and int64 [], 0..classes-1. The pixels are
    kept as bytes and scaled when read.
    """

    def __init__(self, pixels_NP: np.ndarray[Any, Any], labels_N: np.ndarray[Any, Any], white: int) -> None:
        """pixels_NP: uint8 [N, P], 0..white; labels_N: integers [N]. Both are copied."""
        self._pixels_NP = torch.tensor(pixels_NP, dtype=torch.uint8)
        self._labels_N = torch.tensor(labels_N, dtype=torch.int64)
        self._white = float(white)
        self.pixels = int(pixels_NP.shape[1])
        self.classes = int(labels_N.max()) + 1

    def __len__(self) -> int:
        return len(self._labels_N)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        place = checked_index(index, len(self))
        return self._pixels_NP[place].to(torch.float32) / self._white, self._labels_N[place]


def digits(split: Split = "train") -> Images:
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn; [64] per image, 10 classes.

    Of each class, every fifth digit is in `eval` (364), the others in `train` (1,433). Raises InputError
    for another split.
    Source: scikit-learn, `sklearn.datasets.load_digits` (UCI, Optical Recognition of Handwritten Digits).
    """
    _check(split)
    from sklearn.datasets import load_digits  # takes a second to import, and only this function needs it

    found = load_digits()
    place_N = np.empty(len(found.target), np.int64)  # of each digit among those of its class
    for label in range(10):
        of_class = found.target == label
        place_N[of_class] = np.arange(of_class.sum())
    chosen = (place_N % _EVAL_EVERY == 0) == (split == "eval")
    return Images(found.data[chosen].astype(np.uint8), found.target[chosen], white=16)


def mnist_files(folder: str | Path, split: Split = "train") -> Images:
    """MNIST (or a set in its form) from IDX files, packed with gzip or not; [rows * columns] per image.

    Looks in `folder`, `folder/raw` and `folder/MNIST/raw` for `train-images-idx3-ubyte` and
    `train-labels-idx1-ubyte` (`t10k-...` for `eval`), each with or without `.gz`.

    Raises InputError if a file is missing, of another kind, truncated or damaged, or if images and labels
    differ in number.
    Source: the IDX format as published with MNIST (magic number, big-endian sizes, unsigned bytes).
    """
    _check(split)
    images_path = _find(Path(folder), split, "images", 3)
    labels_path = _find(Path(folder), split, "labels", 1)
    images_NHW = _read_idx(images_path, "images")
    labels_N = _read_idx(labels_path, "labels")
    if len(images_NHW) != len(labels_N) or not len(labels_N):
        raise InputError(
            f"{images_path} holds {len(images_NHW)} images, but {labels_path} holds {len(labels_N)} labels; "
            "fetch both files again"
        )
    return Images(images_NHW.reshape(len(images_NHW), -1), labels_N, white=255)


def _check(split: str) -> None:
    if split not in _PARTS:
        raise InputError(f"there is no split {split!r}; use 'train' or 'eval'")


def _find(folder: Path, split: str, kind: str, dims: int) -> Path:
    stems = [f"{_PARTS[split]}-{kind}{mark}idx{dims}-ubyte" for mark in "-."]
    for place in (folder, folder / "raw", folder / "MNIST" / "raw"):
        for name in (f"{stem}{end}" for stem in stems for end in ("", ".gz")):
            if (place / name).is_file():
                return place / name
    raise InputError(
        f"{folder} holds no {stems[0]} (nor .gz); put MNIST's four files there, or give their folder"
    )


def _read_idx(path: Path, kind: str) -> np.ndarray[Any, Any]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read ({error}); it is truncated or damaged, fetch it again"
        ) from error
    magic, dims = int.from_bytes(content[:4], "big"), _MAGIC[kind] & 0xFF
    if len(content) < 4 or magic != _MAGIC[kind]:
        raise InputError(
            f"{path} begins with 0x{magic:08x}, not with 0x{_MAGIC[kind]:08x}; it is no IDX file of {kind}"
        )
    head = 4 + 4 * dims
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    if len(content) < head or len(content) != head + math.prod(shape):
        raise InputError(
            f"{path} has {len(content)} bytes, but its header {shape} asks for {head + math.prod(shape)}; "
            "it is truncated or damaged, fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
