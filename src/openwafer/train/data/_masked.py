"""Masked-language-model samples whose masks depend on the sample's index only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from openwafer.base import InputError
from openwafer.train.data._mapped import MapDataset
from openwafer.train.data._windows import checked_index

# Shares of the chosen positions; the rest keep their token (BERT, arXiv:1810.04805, section 3.1).
_MASKED, _RANDOM = 0.8, 0.1
_IGNORED = -100  # torch.nn.functional.cross_entropy's default ignore_index


class MaskedTokens(Dataset[dict[str, Tensor]]):
    """A dataset of token sequences with the same number of positions masked in every sample.

    Sample i of `dataset` is a mapping with `input_ids` [S], or the ids themselves. Here it becomes a
    dict: `input_ids` int64 [S] with round(fraction * S) positions chosen, of which 80 % become the mask
    token, 10 % a random token and 10 % stay; `labels` int64 [S], the original token at the chosen
    positions and -100 elsewhere; and what else the sample held, unchanged. Because the number is fixed,
    the mean loss of a batch is the mean over its shards' means when the shards are equal.

    The choice depends on (seed, i) only: a resumed run, another process and every epoch see the same.
    """

    def __init__(
        self,
        dataset: MapDataset,
        mask_token: int,
        vocab_size: int,
        fraction: float = 0.15,
        seed: int = 0,
        special_tokens: Sequence[int] = (),
    ) -> None:
        """Positions with a token of `special_tokens`, or where `attention_mask` is 0, are never chosen.

        Raises InputError if `mask_token` is not in the vocabulary or `fraction` not between 0 and 1; a sample
        raises it if it has no ids, an id outside the vocabulary, no position to mask, or too few.
        """
        if not 0 <= mask_token < vocab_size:
            raise InputError(
                f"mask_token {mask_token} is not in a vocabulary of {vocab_size}; enlarge vocab_size"
            )
        if not 0 < fraction <= 1:
            raise InputError(f"fraction is {fraction}; it must be above 0 and at most 1")
        self._dataset, self._mask_token, self._vocab_size = dataset, mask_token, vocab_size
        self._fraction, self._seed = fraction, seed
        self._special = torch.tensor(list(special_tokens), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = checked_index(index, len(self))
        found = self._dataset[place]
        sample = dict(found) if isinstance(found, Mapping) else {"input_ids": found}
        ids_S = self._ids(sample.get("input_ids"), place)
        chosen = self._choose(ids_S, sample.get("attention_mask"), place)

        rng = np.random.default_rng([_unsigned(self._seed), place, 1])
        fate = torch.from_numpy(rng.random(len(chosen)))
        random_ids = torch.from_numpy((rng.random(len(chosen)) * self._vocab_size).astype(np.int64))
        replaced = torch.where(fate < _MASKED + _RANDOM, random_ids, ids_S[chosen])
        replaced[fate < _MASKED] = self._mask_token
        labels_S = torch.full_like(ids_S, _IGNORED)
        labels_S[chosen] = ids_S[chosen]
        masked_S = ids_S.clone()
        masked_S[chosen] = replaced
        return sample | {"input_ids": masked_S, "labels": labels_S}

    def _ids(self, found: object, place: int) -> Tensor:
        if found is None:
            raise InputError(f"sample {place} has no input_ids; wrap a dataset whose samples hold them")
        try:
            ids_S = torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"sample {place}: input_ids are not numbers ({error}); tokenise the text"
            ) from error
        if ids_S.dim() != 1 or ids_S.is_floating_point() or not len(ids_S):
            raise InputError(
                f"sample {place}: input_ids are {str(ids_S.dtype).removeprefix('torch.')} of shape "
                f"{list(ids_S.shape)}; need integers of shape [sequence]"
            )
        ids_S = ids_S.to(torch.int64)
        low, high = int(ids_S.min()), int(ids_S.max())
        if low < 0 or high >= self._vocab_size:
            raise InputError(
                f"sample {place} has token {low if low < 0 else high}, outside of a vocabulary of "
                f"{self._vocab_size}; check the tokenizer and vocab_size"
            )
        return ids_S

    def _choose(self, ids_S: Tensor, attention_mask: object, place: int) -> Tensor:
        count = round(self._fraction * len(ids_S))
        open_S = ~torch.isin(ids_S, self._special)
        if attention_mask is not None:
            mask_S = torch.as_tensor(attention_mask)
            if mask_S.shape != ids_S.shape:
                raise InputError(
                    f"sample {place}: attention_mask has shape {list(mask_S.shape)}, but input_ids have "
                    f"{list(ids_S.shape)}; give one value per token"
                )
            open_S &= mask_S != 0
        candidates = open_S.nonzero().flatten()
        if not 0 < count <= len(candidates):
            raise InputError(
                f"sample {place} has {len(candidates)} of {len(ids_S)} positions that may be masked, and "
                f"fraction {self._fraction} asks for {count}; "
                + ("lower the fraction or pack short texts together" if count else "raise the fraction")
            )
        keys = np.random.default_rng([_unsigned(self._seed), place, 0]).random(len(candidates))
        order = torch.from_numpy(np.argsort(keys, kind="stable")[:count].copy())
        return candidates[order].sort().values


def _unsigned(seed: int) -> int:
    return seed % 2**64
