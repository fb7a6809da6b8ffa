"""Language-modelling windows over a flat run of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Tokens = np.ndarray[Any, Any]


def count_windows(tokens: int, seq_len: int) -> int:
    """How many windows of `seq_len` tokens, each with the token that follows it, do not overlap."""
    return max(0, (tokens - 1) // seq_len)


def window(tokens: Tokens, index: int, seq_len: int) -> dict[str, Tensor]:
    """Window `index`: `input_ids` and `labels`, int64 [seq_len]; labels[i] follows input_ids[i]."""
    start = index * seq_len
    ids = torch.from_numpy(tokens[start : start + seq_len + 1].astype(np.int64))
    return {"input_ids": ids[:-1], "labels": ids[1:]}


def checked_index(index: int, length: int) -> int:
    """`index` counted from the front, as a list reads it. Raises IndexError outside of the dataset."""
    if not -length <= index < length:
        raise IndexError(f"sample {index} of a dataset of {length}")
    return index % length
