"""What can be known about a torch DataLoader without reading it: its state, its randomness, its length."""

from __future__ import annotations

import itertools
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler


def stateful_part(loader: Any) -> Any:
    """The object whose state_dict tells where the loader stands, or None.

    A DataLoader's worker processes iterate copies of the dataset, so its own state tells nothing then.
    """
    candidates = [loader]
    if isinstance(loader, DataLoader) and not loader.num_workers:
        candidates.append(loader.dataset)
    for part in candidates:
        if callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None)):
            return part
    return None


def has_workers(loader: Any) -> bool:
    """Whether a loader's iterator owns worker processes, which only the process that made them may use."""
    return bool(getattr(loader, "num_workers", 0))


def release_iterator(loader: Any) -> object:
    """Make a DataLoader forget the iterator that it keeps (persistent workers), and return that."""
    kept: object = getattr(loader, "_iterator", None)
    if isinstance(loader, DataLoader):
        loader._iterator = None
    return kept


def give_generators(loader: Any) -> list[torch.Generator]:
    """Give a DataLoader and its sampler generators where they have none, and return those given.

    Without one they draw from the global generator, in whatever thread iterates them.
    """
    given: list[torch.Generator] = []
    if not isinstance(loader, DataLoader):
        return given
    for part in (loader, loader.sampler):
        if hasattr(part, "generator") and part.generator is None:
            part.generator = torch.Generator()
            given.append(part.generator)
    return given


def user_generators(loader: Any, given: list[torch.Generator]) -> list[torch.Generator]:
    """The generators that came with a loader, other than those in `given`; each once."""
    found: list[torch.Generator] = []
    for part in (loader, getattr(loader, "sampler", None)):
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator) and not any(
            generator is g for g in itertools.chain(given, found)
        ):
            found.append(generator)
    return found


def independent_epochs(loader: Any, given: list[torch.Generator]) -> bool:
    """Whether an epoch's order is known without having iterated the epochs before it."""
    if (
        not isinstance(loader, DataLoader)
        or not loader.batch_size
        or not hasattr(loader.dataset, "__getitem__")
    ):
        return False
    sampler = loader.sampler
    if isinstance(sampler, RandomSampler):
        return any(sampler.generator is g for g in given)
    return isinstance(sampler, SequentialSampler) or callable(getattr(sampler, "set_epoch", None))


def epoch_samples(loader: Any, drop_last: bool) -> int | None:
    """Samples that a loader gives per epoch, or None unless it is a DataLoader over an indexed dataset."""
    if (
        not isinstance(loader, DataLoader)
        or not loader.batch_size
        or not hasattr(loader.dataset, "__getitem__")
    ):
        return None
    try:
        total = len(cast(Any, loader.sampler))
    except (TypeError, NotImplementedError):
        return None
    dropped = (drop_last and total > loader.batch_size) or loader.drop_last
    return total // loader.batch_size * loader.batch_size if dropped else total


def epoch_length(loader: Any, drop_last: bool) -> int | None:
    """Batches that a loader gives per epoch, or None where `epoch_samples` is."""
    samples = epoch_samples(loader, drop_last)
    return None if samples is None else -(-samples // loader.batch_size)
