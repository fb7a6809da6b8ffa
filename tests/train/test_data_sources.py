"""from_dataset: a batch is a function of its step, and shards have no seam."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Subset, TensorDataset

from openwafer.base import InputError
from openwafer.train.data import from_dataset, rows, to_batch


class Numbers:
    """Sample i is the dict of i and of its square; `read` lists the indices asked for."""

    def __init__(self, total):
        self.total, self.read = total, []

    def __len__(self):
        return self.total

    def __getitem__(self, index):
        self.read.append(index)
        return {"x": torch.tensor([float(index), float(index) ** 2]), "index": index}


sizes = st.integers(1, 40)


@settings(deadline=None)
@given(total=sizes, batch_size=sizes, data=st.data(), drop_last=st.booleans())
def test_the_shards_of_a_batch_make_up_the_whole_batch(total, batch_size, data, drop_last):
    """N systems together see exactly the batch that one would, also where N does not divide it."""
    batch_size = min(batch_size, total) if drop_last else batch_size
    count, step = data.draw(st.integers(1, batch_size)), data.draw(st.integers(0, 30))
    source = from_dataset(Numbers(total), batch_size, seed=3, drop_last=drop_last)
    shards = [source.shard(i, count) for i in range(count)]

    whole = source.batch(step)
    parts = [shard.batch(step) for shard in shards]

    for key in whole:
        assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])
    counts = [rows(part) for part in parts]
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)
    assert sum(shard.batch_size for shard in shards) == batch_size
    if rows(whole) == batch_size:
        assert [shard.batch_size for shard in shards] == counts
    assert sum(shard.samples for shard in shards) == source.samples


@settings(deadline=None)
@given(total=sizes, data=st.data())
def test_shards_of_shards_have_no_seam_either(total, data):
    """A host may split its share over its own systems."""
    outer = data.draw(st.integers(1, total))
    source = from_dataset(Numbers(total), total)
    shards = [source.shard(i, outer) for i in range(outer)]
    inner = data.draw(st.integers(1, min(shard.batch_size for shard in shards)))

    parts = [shard.shard(i, inner).batch(2)["index"] for shard in shards for i in range(inner)]

    assert torch.equal(torch.cat(parts), source.batch(2)["index"])


@settings(deadline=None)
@given(total=sizes, batch_size=sizes, epoch=st.integers(0, 5), shuffle=st.booleans())
def test_every_sample_appears_once_per_epoch(total, batch_size, epoch, shuffle):
    """An epoch is a permutation of the data set."""
    source = from_dataset(Numbers(total), batch_size, shuffle=shuffle, drop_last=False)
    first = epoch * source.steps_per_epoch

    seen = [i for step in range(source.steps_per_epoch) for i in source.batch(first + step)["index"].tolist()]

    assert Counter(seen) == Counter(range(total))
    assert source.samples == total


@settings(deadline=None)
@given(total=st.integers(4, 40), start=st.integers(0, 60), seed=st.integers(-5, 2**63))
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(total, start, seed):
    """Resume needs the step and the seed, and nothing that happened before."""
    whole = from_dataset(Numbers(total), 4, seed=seed)
    uninterrupted = [whole.batch(step)["index"] for step in range(start + 3)]

    resumed = from_dataset(Numbers(total), 4, seed=seed)
    resumed.restore(whole.state(start))

    for step in (start, start + 2, start + 1):
        assert torch.equal(resumed.batch(step)["index"], uninterrupted[step])


def test_epochs_and_seeds_have_orders_of_their_own():
    """Shuffling that repeated itself would not be shuffling; seed 1 is not seed 0 an epoch later."""
    a, b = (from_dataset(Numbers(64), 64, seed=seed) for seed in (0, 1))
    orders = [tuple(source.batch(step)["index"].tolist()) for source in (a, b) for step in range(3)]

    assert len(set(orders)) == 6


def test_without_shuffling_samples_come_in_their_own_order():
    """shuffle=False is what evaluation uses."""
    source = from_dataset(Numbers(5), 2, shuffle=False)

    assert [source.batch(step)["index"].tolist() for step in range(3)] == [[0, 1], [2, 3], [0, 1]]


def test_a_shard_reads_its_own_samples_only():
    """Reading is the slow part: N systems must not each read the whole batch."""
    data = Numbers(8)
    from_dataset(data, 8, shuffle=False).shard(1, 4).batch(0)

    assert data.read == [2, 3]


def test_the_global_generator_is_left_alone():
    """The model's dropout draws from it, so the input order must not."""
    torch.manual_seed(1)
    before = torch.get_rng_state()

    from_dataset(Numbers(9), 3).batch(7)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_source_can_be_sent_to_another_process():
    """Input workers get their source by pickle."""
    source = from_dataset(TensorDataset(torch.arange(12.0), torch.arange(12)), 4).shard(1, 2)

    sent = pickle.loads(pickle.dumps(source))

    assert all(torch.equal(a, b) for a, b in zip(sent.batch(5), source.batch(5), strict=True))


def test_a_whole_batch_is_read_with_getitems_where_there_is_one():
    """Subset and the datasets library read a list of indices much faster than one by one."""
    data = Subset(TensorDataset(torch.arange(10) * 10), range(5, 10))

    assert from_dataset(data, 5, shuffle=False).batch(0)[0].tolist() == [50, 60, 70, 80, 90]


def test_a_collate_of_the_users_own_is_used():
    """Any list of samples can become a batch in the user's way."""
    source = from_dataset(["a", "bcd"], 2, shuffle=False, collate=lambda s: {"size": [len(x) for x in s]})

    assert source.batch(0)["size"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: from_dataset([], 1), "list is empty"),
        (
            lambda: from_dataset(Numbers(3), 4),
            "has 3 samples, less than one batch of 4; lower batch_size to at most 3",
        ),
        (lambda: from_dataset(Numbers(3), 0), "batch_size is 0"),
        (lambda: from_dataset(iter([1]), 1), "has no length.*from_loader"),
        (lambda: from_dataset(Numbers(3), 1).batch(-1), "no batch of step -1"),
        (lambda: from_dataset(Numbers(3), 2).shard(0, 3), "batch of 2 samples cannot feed 3 systems"),
        (lambda: from_dataset(Numbers(3), 2).shard(2, 2), "shard 2 of 2 does not exist"),
        (lambda: from_dataset(Numbers(3), 2).restore({}), "has no step"),
        (
            lambda: from_dataset(["a", "b"], 2, shuffle=False).batch(0),
            r"step 0 \(samples 0, 1\): \[0\] is text",
        ),
        (lambda: from_dataset([None], 1).batch(0), "could not be made into a batch"),
    ],
)
def test_what_cannot_be_a_source_says_why(make, text):
    """Found when the source is made, or at the batch, with what to do next."""
    with pytest.raises(InputError, match=text):
        make()


def test_a_failing_sample_is_named():
    """One bad record among millions must be found by its index."""

    class Torn(Numbers):
        def __getitem__(self, index):
            if index == 6:
                raise OSError("the disk said no")
            return super().__getitem__(index)

    source = from_dataset(Torn(8), 2, shuffle=False)

    assert source.batch(0)["index"].tolist() == [0, 1]
    with pytest.raises(
        InputError, match="sample 6 of Torn could not be read: OSError: the disk said no"
    ) as caught:
        source.batch(3)
    assert isinstance(caught.value.__cause__, OSError)


def test_samples_of_varying_shape_are_refused():
    """Within a batch they do not stack; from batch to batch the compiled step would not fit them."""
    lengths = [torch.zeros(3), torch.zeros(3), torch.zeros(4), torch.zeros(4), torch.zeros(3), torch.zeros(4)]
    source = from_dataset(lengths, 2, shuffle=False)
    source.batch(0)

    with pytest.raises(
        InputError, match=r"step 1 .*shape \[batch, 4\], but earlier batches had .*\[batch, 3\]"
    ):
        source.batch(1)
    with pytest.raises(InputError, match=r"step 2 .*could not be made into a batch"):
        source.batch(2)


def test_arrays_and_numbers_become_tensors_of_their_own_dtype():
    """NumPy pipelines work as they are, big-endian and read-only arrays too."""
    frozen = np.arange(3, dtype=">i4")
    frozen.flags.writeable = False

    batch = to_batch({"a": frozen, "b": [1, 2, 3], "c": np.ones((3, 2), np.float16)[::-1]}, "here")

    assert {k: (v.dtype, tuple(v.shape)) for k, v in batch.items()} == {
        "a": (torch.int32, (3,)),
        "b": (torch.int64, (3,)),
        "c": (torch.float16, (3, 2)),
    }
    assert batch["a"].tolist() == [0, 1, 2]
    assert to_batch([4, 5], "here")[0].tolist() == [4, 5]
    assert to_batch(torch.ones(2), "here")[0].shape == (2,)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"x": torch.ones(2), "name": ["a", "b"]}, "'name' is a list of text, not a tensor; leave it out"),
        ((torch.ones(2), None), r"\[1\] is None"),
        ((torch.ones(2), 3), r"\[1\] is a single number, which has no batch dim"),
        ((torch.ones(2), torch.ones(3)), r"\[0\] has 2, \[1\] has 3"),
        ({"x": [torch.ones(2), torch.ones(2)]}, "a list of 2 tensors"),
        ({"x": {"y": torch.ones(2)}}, "'x' is a dict, not a tensor"),
        ({"x": np.array(["a"])}, "not of numbers"),
        ({"x": np.ones(2, np.longdouble)}, "which torch does not have"),
        ({"x": [[1], [1, 2]]}, "does not make a tensor"),
        ({3: torch.ones(2)}, "keys must be text"),
        ((), "holds no tensor"),
        ((torch.ones(0, 3),), "no samples"),
        (object(), "is a object, not a tensor"),
    ],
)
def test_what_cannot_be_a_batch_names_the_tensor(value, text):
    """The step's inputs are tensors with a common batch dim; the message names the one that is not."""
    with pytest.raises(InputError, match=text):
        to_batch(copy.copy(value), "here")
