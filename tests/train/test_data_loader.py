"""from_loader: the user's own loader, resumed and sharded."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from openwafer.base import InputError
from openwafer.train.data import from_loader


def numbers(total):
    return TensorDataset(torch.arange(total), torch.arange(total) * 2.0)


def batches(*sizes):
    return [{"x": torch.arange(float(n))} for n in sizes]


class Stream(IterableDataset):
    """Samples 0..total-1 with a state, as StatefulDataLoader and the datasets library keep it."""

    def __init__(self, total):
        self.total, self.place, self.read = total, 0, 0

    def __iter__(self):
        while self.place < self.total:
            self.place += 1
            self.read += 1
            yield torch.tensor(self.place - 1)
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


@settings(max_examples=25, deadline=None)
@given(total=st.integers(3, 20), start=st.integers(0, 25), seed=st.integers(0, 9))
def test_a_shuffling_loader_resumes_exactly(total, start, seed):
    """Its order is a function of the seed and the epoch, not of what the process drew before."""

    def fresh():
        return from_loader(DataLoader(numbers(total), batch_size=3, shuffle=True), seed=seed)

    whole = fresh()
    uninterrupted = [whole.batch(step) for step in range(start + 2)]
    torch.rand(3)
    resumed = fresh()

    for step in (start, start + 1):
        assert torch.equal(resumed.batch(step)[0], uninterrupted[step][0])


@settings(max_examples=25, deadline=None)
@given(total=st.integers(1, 20), batch_size=st.integers(1, 8), data=st.data())
def test_the_shards_of_a_loaders_batch_make_up_the_whole_batch(total, batch_size, data):
    """Also for the short last batch, where it is kept."""
    source = from_loader(DataLoader(numbers(total), batch_size=batch_size), drop_last=False)
    count = data.draw(st.integers(1, source.batch_size))
    shards = [source.shard(i, count) for i in range(count)]

    for step in range(source.steps_per_epoch + 1):
        whole = source.batch(step)
        parts = [shard.batch(step) for shard in shards]
        assert all(torch.equal(torch.cat(p), w) for p, w in zip(zip(*parts, strict=True), whole, strict=True))
    assert sum(shard.samples for shard in shards) == source.samples == total


@settings(max_examples=25, deadline=None)
@given(total=st.integers(1, 20), batch_size=st.integers(1, 8), epoch=st.integers(0, 2))
def test_every_sample_of_a_loader_appears_once_per_epoch(total, batch_size, epoch):
    """A shuffled epoch is a permutation also after the generator was given by us."""
    source = from_loader(DataLoader(numbers(total), batch_size=batch_size, shuffle=True), drop_last=False)
    steps = range(epoch * source.steps_per_epoch, (epoch + 1) * source.steps_per_epoch)

    assert Counter(i for step in steps for i in source.batch(step)[0].tolist()) == Counter(range(total))


def test_a_loader_with_a_generator_of_its_own_keeps_its_order():
    """The batches are those of the plain PyTorch loop, over several epochs."""

    def loader():
        return DataLoader(numbers(6), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(5))

    plain = loader()
    expected = [batch[0] for _ in range(3) for batch in plain]
    source = from_loader(loader())

    for step in (*range(9), 4, 0, 8):  # forwards, and back to the generator's first state
        assert torch.equal(source.batch(step)[0], expected[step])


def test_reading_a_loader_leaves_the_global_generator_alone():
    """Every iter() of a plain DataLoader draws a seed; in a prefetch thread that would disturb dropout."""
    torch.manual_seed(1)
    before = torch.get_rng_state()

    from_loader(DataLoader(numbers(6), batch_size=2, shuffle=True)).batch(5)

    assert torch.equal(torch.get_rng_state(), before)


def test_whole_epochs_are_skipped_unread():
    """A resume after a hundred epochs must not read them all."""

    class Counted(TensorDataset):
        read = 0

        def __getitem__(self, index):
            Counted.read += 1
            return super().__getitem__(index)

    source = from_loader(DataLoader(Counted(torch.arange(10)), batch_size=2))
    Counted.read = 0

    assert source.batch(501)[0].tolist() == [2, 3]
    assert Counted.read == 4


@pytest.mark.parametrize("step", [0, 1, 4, 5, 6, 11])
def test_a_loaders_own_state_resumes_without_reading_what_lies_before(step):
    """The state handed out is the consumer's step's, though the loader was read ahead of it."""
    source = from_loader(DataLoader(Stream(10), batch_size=2))
    expected = [source.batch(s)[0].tolist() for s in range(15)]
    state = pickle.loads(pickle.dumps(source.state(step)))

    data = Stream(10)
    resumed = from_loader(DataLoader(data, batch_size=2))
    resumed.restore(state)
    data.read = 0

    assert [resumed.batch(s)[0].tolist() for s in range(step, 15)] == expected[step:]
    assert data.read == 2 * (15 - step)
    assert expected[step] == [2 * (step % 5), 2 * (step % 5) + 1]


def test_a_step_behind_the_cursor_is_found_again():
    """A restarted system asks for the step of the checkpoint, which the loader has passed."""
    for loader in (batches(2, 2), DataLoader(Stream(6), batch_size=2), DataLoader(numbers(6), batch_size=2)):
        source = from_loader(loader)
        seen = [source.batch(step) for step in range(6)]

        for step in (2, 0, 5, 3):
            again = source.batch(step)
            values = zip(
                *(b.values() if isinstance(b, dict) else b for b in (again, seen[step])), strict=True
            )
            assert all(torch.equal(a, b) for a, b in values)


def test_set_epoch_is_called_as_a_training_loop_would():
    """DistributedSampler and streaming sets shuffle by it; forgetting it is a known trap."""

    class Sampler(torch.utils.data.Sampler):
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([(i + self.epoch) % 4 for i in range(4)])

        def __len__(self):
            return 4

    source = from_loader(DataLoader(numbers(4), batch_size=2, sampler=Sampler()))

    assert [source.batch(step)[0].tolist() for step in (0, 1, 2, 7)] == [[0, 1], [2, 3], [1, 2], [1, 2]]


@pytest.mark.parametrize("persistent", [False, True])
def test_worker_processes_serve_the_same_batches_wherever_the_source_goes(persistent):
    """The source is made in one process and sent or forked to another, which starts workers of its own."""
    data = numbers(10)
    loader = DataLoader(data, batch_size=2, num_workers=1, shuffle=True, persistent_workers=persistent)
    source = from_loader(loader, seed=4)
    alone = from_loader(DataLoader(data, batch_size=2, shuffle=True), seed=4)
    sent = pickle.loads(pickle.dumps(source))

    first = source.batch(1)[0]  # from here on, the source's workers run
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=lambda: there.send([source.batch(step)[0].tolist() for step in (1, 6)]))
    child.start()

    assert here.poll(60)
    assert here.recv() == [alone.batch(step)[0].tolist() for step in (1, 6)]
    child.join(60)
    assert child.exitcode == 0
    assert torch.equal(first, alone.batch(1)[0])
    assert torch.equal(sent.batch(2)[0], alone.batch(2)[0])
    assert torch.equal(source.batch(2)[0], alone.batch(2)[0])


def test_a_short_last_batch_is_left_out_or_kept():
    """DataLoader keeps it by default, but the compiled step has one shape."""
    dropped, kept = from_loader(batches(3, 3, 2)), from_loader(batches(3, 3, 2), drop_last=False)

    assert [len(dropped.batch(step)["x"]) for step in range(5)] == [3] * 5
    assert [len(kept.batch(step)["x"]) for step in range(5)] == [3, 3, 2, 3, 3]
    assert (dropped.steps_per_epoch, dropped.samples) == (2, 6)
    assert (kept.steps_per_epoch, kept.samples) == (3, 8)


def test_a_generator_of_batches_serves_until_it_ends():
    """A stream is used once; asking it for more names the reason instead of starting to hang."""
    source = from_loader(batch for batch in batches(2, 2, 2))

    assert len(source.batch(2)["x"]) == 2
    with pytest.raises(
        InputError, match="generator gives no batch in epoch 1; perhaps it can be iterated once"
    ):
        source.batch(3)
    with pytest.raises(InputError, match=r"step 0 lies behind step .*can be iterated once only"):
        source.batch(0)


def test_a_failing_loader_fails_again_when_asked_again():
    """A generator is finished after an exception; its end must not pass for the end of the epoch."""

    class Torn:
        def __iter__(self):
            yield from batches(2, 2)
            raise ValueError("record 17 is torn")

    source = from_loader(Torn())
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"Torn failed at batch 2 of epoch 0 \(step 2\): ValueError: record 17"
        ):
            source.batch(2)
    assert len(source.batch(1)["x"]) == 2


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: from_loader([]), "list gives no batch in epoch 0; check the path"),
        (lambda: from_loader(3), "a int is not a loader"),
        (lambda: from_loader(numbers(3)), "TensorDataset is a dataset of samples, not of batches"),
        (lambda: from_loader([{"x": ["a", "b"]}]), r"batch 0 of epoch 0 \(step 0\): 'x' is a list of text"),
        (
            lambda: from_loader([{"x": torch.ones(2)}, {"y": torch.ones(2)}]).batch(1),
            "y is float32.*had x is",
        ),
        (
            lambda: from_loader([(torch.ones(2),), (torch.ones(2),) * 2]).batch(1),
            r"2 tensors \(\[0\], \[1\]\), but",
        ),
        (lambda: from_loader([torch.ones(2), torch.ones(2).long()]).batch(1), "is int64 .* had .*float32"),
        (
            lambda: from_loader(batches(3, 2, 3)).batch(1),
            "has 2 samples, but earlier batches had 3; only the last",
        ),
        (lambda: from_loader(batches(3, 4)).batch(1), "has 4 samples, but earlier"),
        (
            lambda: from_loader(batches(3)).restore({"step": 1, "loader": {}, "epoch": 0, "offset": 1}),
            "no load_state",
        ),
        (
            lambda: from_loader(DataLoader(Stream(2))).restore({"step": 1, "loader": {}}),
            "no epoch and offset",
        ),
    ],
)
def test_what_cannot_be_trained_on_says_why(make, text):
    """The first batch is read at once, so most mistakes show before anything is compiled."""
    with pytest.raises(InputError, match=text):
        make()
