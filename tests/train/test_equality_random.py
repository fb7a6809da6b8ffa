"""Dropout: numbers that depend on the seed, the step, the sample and the place in the model, and on nothing else."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from equality_cases import BATCH, Case, as_captured, numbers, plain, quick, same_bits, streamed, token_batches
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from openwafer.cluster._kernels import mix

SEED = 11


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick():
        yield


class Dropping(nn.Module):
    """Five kinds of randomness: dropout in place and not, of whole features, alpha dropout, and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 24)
        self.blocks = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.drop = nn.Dropout(0.3)
        self.drop_in_place = nn.Dropout(0.2, inplace=True)
        self.alpha = nn.AlphaDropout(0.2)
        self.head = nn.Linear(24, 8)

    def forward(self, x):
        x = self.drop(F.relu(self.first(x)))
        for block in self.blocks:
            x = x + self.drop_in_place(F.gelu(block(self.drop(x))))
        x = F.dropout1d(x.unsqueeze(-1), 0.2, self.training).squeeze(-1)
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        return self.head(self.alpha(x))


@cache
def dropping() -> Case:
    torch.manual_seed(0)
    return Case("dropping", Dropping(), numbers(16, 8), F.cross_entropy)


@cache
def gpt2_with_dropout() -> Case:
    import transformers as t

    torch.manual_seed(0)
    shape = {"vocab_size": 64, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = t.GPT2Config(
        n_positions=16, n_embd=32, n_layer=3, n_head=2, **shape
    )  # dropout 0.1 in three places
    assert config.attn_pdrop == config.resid_pdrop == config.embd_pdrop == 0.1
    return Case("gpt2_with_dropout", t.GPT2LMHeadModel(config), token_batches(), None)


CASES = {"dropping": dropping, "gpt2": gpt2_with_dropout}


class Seeded(TorchDispatchMode):
    """Seeds the n-th random operator of a forward from (key, n), and leaves the global generator alone."""

    def __init__(self, key: int) -> None:
        super().__init__()
        self.key = key
        self.count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in op.tags or kwargs.get("dropout_p") == 0.0:
            return op(*args, **kwargs)
        salt, self.count = self.count, self.count + 1
        if any(argument.name == "generator" for argument in op._schema.arguments):
            return op(*args, **{**kwargs, "generator": torch.Generator().manual_seed(mix(self.key, salt))})
        with torch.random.fork_rng():
            torch.manual_seed(mix(self.key, salt))
            return op(*args, **kwargs)


def seeded(step: int, row: int):
    """The context of a microbatch that begins at `row` of the batch."""
    return Seeded(mix(SEED, step, row))


@pytest.mark.parametrize(
    ("execution", "systems", "store", "microbatch", "replicas"),
    [
        ("weight_streaming", 1, "ram", None, ((BATCH,),)),
        ("weight_streaming", 1, "disk", 3, ((3, 3, 2),)),
        ("weight_streaming", 2, "ram", 2, ((2, 2), (2, 2))),
        ("pipelined", 3, "ram", 4, ((4, 4),)),
    ],
)
def test_dropout_is_that_of_plain_pytorch_seeded_alike(
    execution, systems, store, microbatch, replicas, tmp_path
):
    """A plain run whose n-th random operator draws from the key (seed, step, first row; n) has the same bits.

    So where a sample is computed, and what else runs there, changes nothing.
    """
    found = streamed(
        dropping(),
        tmp_path,
        systems=systems,
        execution=execution,
        store=store,
        microbatch=microbatch,
        seed=SEED,
    )

    same_bits(found, plain(dropping(), replicas, around=seeded))


def test_dropout_of_transformers_is_that_of_plain_pytorch_seeded_alike(tmp_path):
    """Attention dropout happens inside the attention operator, or beside it: both are seeded."""
    found = streamed(gpt2_with_dropout(), tmp_path, seed=SEED)

    same_bits(found, plain(gpt2_with_dropout(), around=seeded, forward=as_captured))


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name, tmp_path):
    """Nothing draws from a global generator, whose state depends on what ran before."""
    case = CASES[name]()

    first = streamed(case, tmp_path / "first", seed=SEED, microbatch=4, steps=4)
    torch.manual_seed(999)
    torch.rand(17)
    second = streamed(case, tmp_path / "second", seed=SEED, microbatch=4, steps=4)
    other = streamed(case, tmp_path / "other", seed=SEED + 1, microbatch=4, steps=4)

    same_bits(second, first)
    assert other.losses[0] != first.losses[0]


@pytest.mark.parametrize(
    ("execution", "systems"), [("weight_streaming", 1), ("weight_streaming", 2), ("pipelined", 2)]
)
@pytest.mark.parametrize("name", CASES)
def test_recomputed_dropout_drops_the_same(name, execution, systems, tmp_path):
    """A recomputed operator draws from the same key as the first time."""
    options = {"execution": execution, "systems": systems, "microbatch": 2, "seed": SEED, "steps": 4}

    again = streamed(CASES[name](), tmp_path / "again", recompute=True, **options)

    same_bits(again, streamed(CASES[name](), tmp_path / "kept", **options))


def test_every_step_and_every_sample_drops_otherwise(tmp_path):
    """On one repeated sample and with weights that stay, losses differ between steps and between microbatches."""
    case = dropping()
    x, y = case.data.batch(0)
    same = Case("same", case.fresh(), type(case.data)([(x[:1].repeat(8, 1), y[:1].repeat(8))]), case.loss)
    options = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0), "steps": 4}

    whole = streamed(same, tmp_path / "whole", **options)
    first = streamed(same, tmp_path / "first", microbatch=1, **options)

    assert len(set(whole.losses)) == 4
    assert not set(whole.losses) & set(first.losses)
