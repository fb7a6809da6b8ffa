"""A vocabulary that is cut by rows trains to the numbers of the whole one, wherever its shards live."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from equality_cases import BATCH, Case, Listed, quick, same_bits, spread_of, streamed
from safetensors.torch import load_file
from torch import nn

from openwafer.base import InputError
from openwafer.graph.passes import _shard_choice
from openwafer.train import LocalCluster, Trainer
from openwafer.train.optim import AdamW, clip_by_global_norm

WORDS, WIDTH, POSITIONS, IGNORED = 301, 8, 12, -100


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Captures are shared; shards may be as small as the layers of these models."""
    with quick(), pytest.MonkeyPatch().context() as patch:
        patch.setattr(_shard_choice, "MIN_SHARD_BYTES", 1)
        yield


class Block(nn.Module):
    """A residual layer with a weight and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Words(nn.Module):
    """Tokens in, logits out: what of a language model a vocabulary touches."""

    def __init__(self, tied: bool, bias: bool, layers: int = 3) -> None:
        super().__init__()
        self.wte = nn.Embedding(WORDS, WIDTH, padding_idx=3)
        self.wpe = nn.Embedding(POSITIONS, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=bias)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, input_ids):
        x = self.wte(input_ids) + self.wpe.weight[: input_ids.shape[1]]
        for block in self.h:
            x = block(x)
        return self.head(self.norm(x))


def next_token(logits, batch):
    return F.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)


def batches():
    """Every sample leaves out as many labels, so that a mean over labels is a mean over samples."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for ids in torch.randint(WORDS, (10, BATCH, POSITIONS), generator=generator):
        labels = ids.roll(-1, 1)
        labels[:, -3:] = IGNORED
        found.append({"input_ids": ids, "labels": labels})
    return Listed(found)


@cache
def words(tied: bool, bias: bool = False) -> Case:
    torch.manual_seed(0)
    return Case("words", Words(tied, bias), batches(), next_token)


KINDS = {"tied": (True, False), "untied": (False, False), "biased": (False, True)}


def shard_names(plan):
    return [weight.name for record in plan.records for weight in record.weights if weight.part is not None]


@pytest.mark.parametrize(
    ("systems", "execution", "store", "microbatch"),
    [
        (1, "weight_streaming", "ram", None),
        (2, "weight_streaming", "disk", 2),
        (3, "pipelined", "disk", 2),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_vocabulary_trains_like_plain_pytorch(kind, systems, execution, store, microbatch, tmp_path):
    """Only the order in which sums over words and rows are added differs; see Spread for how far that may lead."""
    case = words(*KINDS[kind])

    found = streamed(
        case,
        tmp_path,
        systems=systems,
        execution=execution,
        store=store,
        microbatch=microbatch,
        shard_vocabulary=True,
    )

    assert len(shard_names(found.plan)) == {"tied": 9, "untied": 18, "biased": 27}[kind]
    assert not spread_of(case).outside(found)


@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast"])
@pytest.mark.parametrize("kind", ["tied", "biased"])
def test_a_cut_vocabulary_trains_like_the_whole_in_bfloat16(kind, precision, tmp_path):
    """Logits and their gradients are rounded to bfloat16 as for the whole; what the shards add to the gradient of the
    head's input is rounded shard by shard, which the whole rounds once: an error of 2**-8 of a gradient, so that early
    steps agree to 2**-8 of the loss's change."""
    case = words(*KINDS[kind])
    whole = streamed(case, tmp_path / "whole", precision=precision, shard_vocabulary=False)

    found = streamed(case, tmp_path / "shards", precision=precision, shard_vocabulary=True)

    assert len(shard_names(found.plan)) == {"tied": 9, "biased": 27}[kind]
    change = abs(whole.losses[-1] - whole.losses[0])
    assert change > 0
    assert found.losses[0] == pytest.approx(whole.losses[0], rel=2**-20)
    torch.testing.assert_close(
        torch.tensor(found.losses), torch.tensor(whole.losses), rtol=0, atol=max(2**-8 * change, 2**-8)
    )


def test_clipping_by_global_norm_sees_the_norm_of_the_shards_together(tmp_path):
    """The norm of the norms of all shards is that of the whole, but for rounding."""
    case = words(True)
    rule = clip_by_global_norm(AdamW(lr=3e-3, weight_decay=0.1), 0.5)
    whole = streamed(case, tmp_path / "whole", optimizer=rule, shard_vocabulary=False, steps=3)

    found = streamed(case, tmp_path / "shards", optimizer=rule, shard_vocabulary=True, steps=3)

    assert found.plan.update.waits
    for ours, theirs in zip(found.logs, whole.logs, strict=True):
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def test_a_checkpoint_holds_the_whole_weight_and_its_state(tmp_path):
    """Under their own names, in one file each, as any reader of safetensors finds them."""
    found = streamed(words(True), tmp_path, shard_vocabulary=True, steps=2)

    tensors = {}
    for file in found.result.checkpoint.glob("*.safetensors"):
        both = load_file(file)
        assert not tensors.keys() & both.keys()
        tensors.update(both)
    assert {"wte.weight", "wte.weight/exp_avg", "wte.weight/exp_avg_sq"} <= tensors.keys()
    assert not [name for name in tensors if "[" in name]
    assert torch.equal(tensors["wte.weight"], found.weights["wte.weight"])
    assert found.checkpoint.types.keys() == tensors.keys()


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_a_run_may_go_on_with_its_vocabulary_cut_otherwise(before, after, tmp_path):
    """Checkpoints know nothing of shards, so how a run was cut does not bind the one that goes on."""
    case = words(True)

    first = streamed(case, tmp_path, steps=5, shard_vocabulary=before)
    assert bool(shard_names(first.plan)) == before
    second = streamed(case, tmp_path, resume=True, shard_vocabulary=after)

    assert bool(shard_names(second.plan)) == after
    joined = type(second)(
        first.losses + second.losses, second.weights, result=second.result, logs=[], metrics=[]
    )
    assert not spread_of(case).outside(joined)


def test_a_cut_run_that_stops_and_goes_on_has_the_bits_of_one_run(tmp_path):
    """Every shard comes back with its own rows of the weight and of both moments."""
    case = words(False, True)
    options = {"shard_vocabulary": True, "store": "disk", "microbatch": 2}
    whole = streamed(case, tmp_path / "whole", **options)

    first = streamed(case, tmp_path / "parts", steps=4, **options)
    second = streamed(case, tmp_path / "parts", resume=True, **options)

    assert first.losses + second.losses == whole.losses
    same_bits(type(whole)(whole.losses, second.weights, result=second.result, logs=[], metrics=[]), whole)


def test_evaluation_uses_the_shards(tmp_path):
    """Forward only, on the same records; the loss is that of the module."""
    case = words(True)

    found = streamed(
        case, tmp_path, shard_vocabulary=True, steps=1, eval=case.data, eval_every=1, eval_batches=2
    )

    case.module.eval()
    with torch.no_grad():
        expected = [float(case.loss_of(batch)) for batch in case.data.batches[:2]]
    assert found.result.eval_losses[0][1] == pytest.approx(sum(expected) / 2, rel=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_deferred_initialisation_gives_a_cut_weight_the_values_of_the_whole(tied, tmp_path):
    """The module's own initialisation makes the whole table from one seed, and shards take their rows of it."""

    def started(shards):
        trainer = Trainer(
            lambda: Words(tied, True),
            optimizer=AdamW(lr=0.0, weight_decay=0.0),
            loss=next_token,
            cluster=LocalCluster(shard_vocabulary=shards, threads=1, matmul="torch"),
            folder=tmp_path / str(shards),
        )
        return trainer.fit(batches(), steps=1)

    whole, cut = (started(shards) for shards in (False, True))

    from openwafer.cluster.store import Checkpoint

    one, other = Checkpoint.open(whole.checkpoint), Checkpoint.open(cut.checkpoint)
    assert one.types == other.types
    for name in one.weights:
        assert torch.equal(one.tensor(name), other.tensor(name)), name


def test_a_token_outside_the_vocabulary_is_named(tmp_path):
    """Where ATen's lookup would raise, shards must not pass over a row in silence."""
    case = words(True)
    bad = {name: value.clone() for name, value in case.data.batch(0).items()}
    bad["input_ids"][2, 1] = WORDS

    with pytest.raises(
        InputError, match=f"a token id is {WORDS}, but the model knows words 0 to {WORDS - 1}"
    ):
        streamed(case, tmp_path, shard_vocabulary=True, steps=1, data=Listed([bad]))
