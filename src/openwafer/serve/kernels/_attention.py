"""Attention of new tokens over a paged KV cache.

T tokens, S sequences, B blocks of the longest one, N query heads, G heads of keys and values, D numbers of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

import torch
from torch.nn import functional

from openwafer.serve.kernels._load import TYPES, Level, native, native_level

BLOCK_TOKENS = 128
"""Tokens of a block of the cache."""

NATIVE_SEQUENCE_TOKENS = 8
"""A sequence with so many new tokens or fewer is computed natively, each token by itself; torch blocks longer ones."""


class Batched(Protocol):
    """What attention has to know about a batch: `executors.Batch` says what the fields mean."""

    @property
    def starts(self) -> Sequence[int]: ...
    @property
    def contexts(self) -> Sequence[int]: ...
    @property
    def tables_SB(self) -> torch.Tensor: ...  # noqa: N802


@final
class Paged:
    """Where the keys and values of each token of a batch lie, made once for all layers.

    Sequence s has tokens `starts[s]` to `starts[s + 1]`, is `contexts[s]` tokens long after them, and has its cache in the
    blocks `tables_SB[s]` (int32).
    """

    def __init__(self, starts: Sequence[int], contexts: Sequence[int], tables_SB: torch.Tensor) -> None:
        self.starts, self.contexts = tuple(starts), tuple(contexts)
        self.tables_SB = tables_SB.contiguous()
        few, long = [], []
        for s, context in enumerate(self.contexts):
            start, stop = self.starts[s], self.starts[s + 1]
            if stop - start > NATIVE_SEQUENCE_TOKENS:
                long.append(s)
                continue
            for token in range(start, stop):
                few += [token, s, context - (stop - 1 - token)]
        self.long = tuple(long)
        """Sequences with many new tokens."""
        self.few_F3 = torch.tensor(few, dtype=torch.int32).view(-1, 3)
        """Tokens of the others, with their sequence, and how many tokens they see."""


def attention(
    query_TND: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    batch: Batched,
    window: int | None = None,
    level: Level | None = None,
) -> torch.Tensor:
    """[T, N, D] in the query's dtype: softmax(query keys / sqrt(D)) values, each token over those up to itself.

    keys, values: [blocks, G, BLOCK_TOKENS, D], already with those of the batch's tokens; each serves N / G query heads.
    window: how many tokens a token sees, itself included. Sums are float32. What a token of a short run of tokens gets
    does not depend on the rest of the batch or on the number of threads.
    """
    paged = batch if isinstance(batch, Paged) else Paged(batch.starts, batch.contexts, batch.tables_SB)
    out_TND = torch.empty_like(query_TND, memory_format=torch.contiguous_format)
    number = native_level(level)
    if number is None or not _is_native(query_TND, keys, values):
        for s in range(len(paged.contexts)):
            _attend(query_TND, keys, values, paged, s, window, out_TND)
        return out_TND
    for s in paged.long:
        _attend(query_TND, keys, values, paged, s, window, out_TND)
    if len(paged.few_F3):
        query_TND = query_TND.contiguous()
        assert native is not None
        native.attention(
            number,
            TYPES[query_TND.dtype],
            query_TND.shape[1],
            query_TND.shape[2],
            keys.shape[1],
            window or 0,
            query_TND.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            paged.tables_SB.data_ptr(),
            paged.tables_SB.shape[1],
            paged.few_F3.data_ptr(),
            len(paged.few_F3),
            out_TND.data_ptr(),
        )
    return out_TND


def _is_native(query_TND: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> bool:
    return (
        query_TND.device.type == "cpu"
        and query_TND.shape[2] % 16 == 0
        and query_TND.dtype == keys.dtype == values.dtype
        and query_TND.dtype in TYPES
        and keys.is_contiguous()
        and values.is_contiguous()
    )


def _attend(
    query_TND: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    paged: Paged,
    sequence: int,
    window: int | None,
    out_TND: torch.Tensor,
) -> None:
    """One sequence, by torch; what is masked is gathered as well, up to the end of its last block."""
    start, stop = paged.starts[sequence], paged.starts[sequence + 1]
    context = paged.contexts[sequence]
    first = 0 if window is None else max(0, context - (stop - start) - window + 1) // BLOCK_TOKENS
    table = paged.tables_SB[sequence, first : -(-context // BLOCK_TOKENS)].to(keys.device, torch.int64)
    seen = context - first * BLOCK_TOKENS
    keys_GCD = keys[table].transpose(0, 1).flatten(1, 2)[None, :, :seen]
    values_GCD = values[table].transpose(0, 1).flatten(1, 2)[None, :, :seen]
    query_NTD = query_TND[start:stop].transpose(0, 1)[None]
    row = torch.arange(seen - (stop - start), seen, device=query_TND.device)[:, None]
    column = torch.arange(seen, device=query_TND.device)
    mask = column <= row
    if window is not None:
        mask &= column > row - window
    mixed = functional.scaled_dot_product_attention(
        query_NTD, keys_GCD, values_GCD, attn_mask=mask, enable_gqa=True
    )
    out_TND[start:stop] = mixed[0].transpose(0, 1)
