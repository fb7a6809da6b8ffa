"""Batches from the user's own loader, in its own order; resumed from its state or by skipping."""

from __future__ import annotations

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import Dataset

from openwafer.base import InputError, WaferError, logger
from openwafer.train.data._batch import Batch, Structure, check_structure, rows, structure, to_batch
from openwafer.train.data._seeds import derive_seed
from openwafer.train.data._source import BatchSource, Shard, check_shard, check_state, check_step
from openwafer.train.data._torch_loader import (
    epoch_length,
    epoch_samples,
    give_generators,
    has_workers,
    independent_epochs,
    release_iterator,
    stateful_part,
    user_generators,
)

_END = object()
_SNAPSHOTS = 64  # states kept: more than any prefetch depth, so that the consumer's step is among them
_SHARED_BATCHES = 8  # batches kept for shards that read one loader in one process, a few steps apart
_ORPHANS: list[object] = []  # iterators inherited by fork: deleting one would stop the parent's workers


def from_loader(loader: Iterable[Any], seed: int = 0, drop_last: bool = True) -> BatchSource:
    """The batches of a `torch.utils.data.DataLoader`, or of any iterable of batches, epoch after epoch.

    The first batch is read at once; it fixes `batch_size` and the structure of all others. At the
    end of an epoch the loader is iterated again, after `set_epoch(epoch)` on its sampler and dataset
    where they have it. A DataLoader without a generator gets one (and so does its sampler), seeded
    from `seed` and the epoch: its order then neither depends on nor disturbs the global generator.

    Resuming is exact if the loader is deterministic. Where the loader, or the dataset of a
    DataLoader without worker processes, has `state_dict` and `load_state_dict`, `state` holds their
    state; else `batch(step)` reads and drops the batches before `step`. Whole epochs of a DataLoader
    whose epochs do not depend on one another are skipped unread.

    A last batch of fewer samples is left out (`drop_last`) or kept. A shard slices the whole batch;
    shards of one source may be read by several threads, a few steps apart.

    Raises InputError if the loader gives no batch, cannot be iterated again when it must be, fails,
    or gives batches of varying structure, of text or of other things that are not numbers.
    """
    if isinstance(loader, Dataset):
        raise InputError(
            f"{type(loader).__name__} is a dataset of samples, not of batches; wrap it in a "
            "torch.utils.data.DataLoader, or use from_dataset if it can be indexed"
        )
    if not isinstance(loader, Iterable):
        raise InputError(
            f"a {type(loader).__name__} is not a loader; pass a DataLoader or an iterable of batches"
        )
    return LoaderSource(loader, seed, drop_last)


class LoaderSource(BatchSource):
    """An iterable of batches with a cursor; see `from_loader`, which makes it."""

    _iterator: Iterator[Any] | None
    _recent: OrderedDict[int, Batch]
    _lock: threading.Lock
    _pid: int
    _step: int  # the cursor: the step of the batch that the iterator gives next
    _epoch: int
    _offset: int  # batches of this epoch given so far

    def __init__(self, loader: Iterable[Any], seed: int, drop_last: bool) -> None:
        self._loader, self._seed, self._drop_last = loader, seed, drop_last
        self._stateful = stateful_part(loader)
        self._generators = [] if self._stateful is loader else give_generators(loader)
        self._user_generators = [(g, g.get_state()) for g in user_generators(loader, self._generators)]
        self._steps_per_epoch = epoch_length(loader, drop_last)
        self._skip_epochs = independent_epochs(loader, self._generators) and self._stateful is None
        self._structure: Structure | None = None
        self._batch_size = 0
        self._samples: int | None = None
        self._keep = 1
        self._snapshots: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._first: dict[str, Any] | None = None
        self._clear()
        self._prepare(0)
        self._first = self._snapshot()
        self._iterator = self._guarded(iter, self._loader)
        self._advance()
        if has_workers(loader):
            self._iterator = None  # no worker processes outlive the peek: this source may be sent elsewhere
            release_iterator(loader)

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    def samples(self) -> int | None:
        return self._samples if self._samples is not None else epoch_samples(self._loader, self._drop_last)

    @property
    def steps_per_epoch(self) -> int | None:
        return self._steps_per_epoch

    def batch(self, step: int) -> Batch:
        check_step(step)
        with self._lock:
            if self._pid != os.getpid() and has_workers(self._loader):
                _ORPHANS.extend((self._iterator, release_iterator(self._loader)))
                self._iterator, self._pid = None, os.getpid()
            if step in self._recent:
                return self._recent[step]
            try:
                self._read_on_to(step)
            except BaseException:
                self._iterator = None  # a batch may be lost in it: the next call starts again
                raise
            return self._recent[step]

    def shard(self, index: int, count: int) -> BatchSource:
        check_shard(self.batch_size, index, count)
        self._keep = _SHARED_BATCHES
        return Shard(self, index, count)

    def state(self, step: int) -> dict[str, Any]:
        check_step(step)
        with self._lock:
            near = self._nearest(step) if self._stateful is not None else None
        return {"step": step} if near is None else copy.deepcopy(near)

    def restore(self, state: dict[str, Any]) -> None:
        check_state(state)
        if "loader" not in state:
            return
        if not {"epoch", "offset"} <= set(state):
            raise InputError(
                "the input state names no epoch and offset; it was not made by BatchSource.state"
            )
        if self._stateful is None:
            raise InputError(
                f"the input state holds a loader's own state, but {type(self._loader).__name__} has no "
                "load_state_dict; resume with the loader that the run was started with"
            )
        with self._lock:
            self._clear()
            self._resume(state)

    def __getstate__(self) -> dict[str, Any]:
        gone = ("_lock", "_iterator", "_recent")
        return {name: value for name, value in self.__dict__.items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()

    def _clear(self) -> None:
        if not hasattr(self, "_lock"):
            self._lock = threading.Lock()
        self._pid = os.getpid()
        self._iterator = None
        self._recent = OrderedDict()
        self._step = self._epoch = self._offset = 0

    def _read_on_to(self, step: int) -> None:
        if self._iterator is None or step < self._step:
            self._go_back(step)
        length = self._steps_per_epoch
        if self._skip_epochs and length and step // length > self._epoch:
            self._begin(step // length)
            self._step = self._epoch * length
        if step > self._step:
            logger("input").info("reading on to the step", step=step, batches_skipped=step - self._step)
        while self._step <= step:
            self._advance()

    def _begin(self, epoch: int) -> None:
        """Iterate the loader anew, as its epoch `epoch`; the cursor's step is left to the caller."""
        self._prepare(epoch)
        self._iterator = self._guarded(iter, self._loader)

    def _prepare(self, epoch: int) -> None:
        self._epoch, self._offset = epoch, 0
        for number, generator in enumerate(self._generators):
            generator.manual_seed(derive_seed(self._seed, epoch, number))
        part: Any
        for part in (
            self._loader,
            getattr(self._loader, "sampler", None),
            getattr(self._loader, "dataset", None),
        ):
            if callable(getattr(part, "set_epoch", None)):
                self._guarded(part.set_epoch, epoch)

    def _go_back(self, step: int) -> None:
        """Put the cursor at or before `step`: at the nearest state kept, else at the first batch."""
        near = self._nearest(step) if self._stateful is not None else None
        if near is not None:
            self._resume(near)
            return
        if isinstance(self._loader, Iterator):
            raise InputError(
                f"step {step} lies behind step {self._step}, and a {type(self._loader).__name__} can be "
                "iterated once only; pass a DataLoader, or an object whose __iter__ starts from the first "
                "batch"
            )
        for generator, first in self._user_generators:
            generator.set_state(first)
        self._begin(0)
        self._step = 0

    def _resume(self, state: dict[str, Any]) -> None:
        self._prepare(state["epoch"])
        self._guarded(self._stateful.load_state_dict, copy.deepcopy(state["loader"]))
        self._iterator = self._guarded(iter, self._loader)
        self._step, self._offset = state["step"], state["offset"]

    def _nearest(self, step: int) -> dict[str, Any] | None:
        kept = [s for s in self._snapshots if s <= step]
        return self._snapshots[max(kept)] if kept else self._first

    def _snapshot(self) -> dict[str, Any] | None:
        if self._stateful is None:
            return None
        own = copy.deepcopy(self._guarded(self._stateful.state_dict))
        return {"step": self._step, "epoch": self._epoch, "offset": self._offset, "loader": own}

    def _advance(self) -> None:
        """Read the batch at the cursor, keep it, and move on."""
        if self._step not in self._snapshots and (state := self._snapshot()) is not None:
            self._snapshots[self._step] = state
        self._recent[self._step] = self._pull()
        self._step += 1
        if (state := self._snapshot()) is not None:
            self._snapshots[self._step] = state
        for kept, limit in ((self._snapshots, _SNAPSHOTS), (self._recent, self._keep)):
            while len(kept) > limit:
                kept.popitem(last=False)

    def _pull(self) -> Batch:
        while True:
            raw = self._next()
            if raw is _END:
                self._end_of_epoch()
                continue
            batch = to_batch(raw, self._where())
            if self._structure is None:
                self._structure, self._batch_size = structure(batch), rows(batch)
            check_structure(self._structure, batch, self._where())
            if rows(batch) != self._batch_size:
                self._check_last(rows(batch))
                if self._drop_last:
                    self._end_of_epoch()
                    continue
                self._iterator = iter(())
                self._samples = self._offset * self._batch_size + rows(batch)
            self._offset += 1
            return batch

    def _check_last(self, found: int) -> None:
        if found > self._batch_size or self._next() is not _END:
            raise InputError(
                f"{self._where()} has {found} samples, but earlier batches had {self._batch_size}; only the "
                "last batch of an epoch may be shorter: let the loader give batches of one size"
            )

    def _end_of_epoch(self) -> None:
        if not self._offset:
            raise InputError(
                f"{type(self._loader).__name__} gives no batch in epoch {self._epoch}; "
                + (
                    "perhaps it can be iterated once only: pass a DataLoader, or an object whose __iter__ "
                    "starts from the first batch, or train for fewer steps"
                    if self._epoch
                    else "check the path, the filter and the batch size of its dataset"
                )
            )
        self._steps_per_epoch = self._offset
        if self._samples is None:
            self._samples = self._offset * self._batch_size
        self._begin(self._epoch + 1)

    def _next(self) -> Any:
        assert self._iterator is not None
        return self._guarded(next, self._iterator, _END)

    def _where(self) -> str:
        return f"batch {self._offset} of epoch {self._epoch} (step {self._step})"

    def _guarded(self, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except WaferError:
            raise
        except Exception as error:
            raise InputError(
                f"{type(self._loader).__name__} failed at {self._where()}: {type(error).__name__}: {error}"
            ) from error
