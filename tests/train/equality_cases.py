"""What the equality tests share: models and batches, plain PyTorch loops, and the same runs on a cluster.

`plain` is the reference: `model.train()`, `loss.backward(gradient=n/B)` for each microbatch of n of the B samples,
then a torch optimizer. `streamed` is the system under test, through the Trainer and nothing below it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from openwafer.artifact import Plan, plan_from_json
from openwafer.cluster import StepDone
from openwafer.cluster.store import Checkpoint
from openwafer.train import FitResult, LocalCluster, Trainer, _trainer, load_recipe
from openwafer.train.data import Batch, BatchSource
from openwafer.train.report import Timeline, _reporter

BATCH = 8
STEPS = 10
SEQ = 16
VOCABULARY = 64
RECIPES = Path(__file__).parents[2] / "recipes"

Optimizer = Callable[[Any], torch.optim.Optimizer]


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of most of these tests, for both sides."""
    return torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.1, fused=True)


# --- data -------------------------------------------------------------------------------------------------


class Listed(BatchSource):
    """Batches from a list, so that a test and its reference read the same tensors."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = list(batches)

    @property
    def batch_size(self) -> int:
        first = self.batches[0]
        return len(next(iter(first.values())) if isinstance(first, dict) else first[0])

    @property
    def samples(self) -> int:
        return self.batch_size * len(self.batches)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.batches)

    def batch(self, step: int) -> Batch:
        return self.batches[step % len(self.batches)]


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """Some samples of a batch."""
    if isinstance(batch, dict):
        return {name: value[start:stop] for name, value in batch.items()}
    return tuple(value[start:stop] for value in batch)


def numbers(features: int, classes: int, steps: int = STEPS, batch: int = BATCH, seed: int = 7) -> Listed:
    """Batches (float32 [B, features], int64 [B])."""
    generator = torch.Generator().manual_seed(seed)
    return Listed(
        [
            (
                torch.randn(batch, features, generator=generator),
                torch.randint(classes, (batch,), generator=generator),
            )
            for _ in range(steps)
        ]
    )


def token_batches(steps: int = STEPS, batch: int = BATCH, seed: int = 5) -> Listed:
    """Batches for transformers models: `input_ids` and `labels`, int64 [B, S]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (steps, batch, SEQ), generator=generator)
    return Listed([{"input_ids": entry, "labels": entry.clone()} for entry in ids])


# --- models -----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Case:
    """One model with its data and loss; `module` is built once and set back before every run."""

    name: str
    module: nn.Module
    data: BatchSource
    loss: Callable[..., Tensor] | None
    initial: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.initial = {name: value.clone() for name, value in self.module.state_dict().items()}

    def fresh(self) -> nn.Module:
        """The module with its initial values, in training mode."""
        self.module.load_state_dict(self.initial)
        return self.module.train()

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of a batch as RunConfig says that it is called."""
        if self.loss is None:
            found = self.module(**batch) if isinstance(batch, dict) else self.module(*batch)
            return found if isinstance(found, Tensor) else found.loss
        if isinstance(batch, dict):
            names = inspect.signature(type(self.module).forward).parameters
            return self.loss(self.module(**{k: v for k, v in batch.items() if k in names}), batch)
        return self.loss(self.module(*batch[:-1]), batch[-1])

    @property
    def weights(self) -> dict[str, Tensor]:
        """Copies of parameters and buffers, tied ones once."""
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        return {name: value.detach().clone() for name, value in named}


def recipe_case(name: str) -> Case:
    """A recipe's tiny model, data and loss."""
    config = load_recipe(RECIPES / f"{name}.py", size="tiny", batch=BATCH)
    torch.manual_seed(0)
    source = config.train()
    return Case(name, config.model(), Listed([source.batch(step) for step in range(STEPS)]), config.loss)


def transformers_case(name: str) -> Case:
    """An unmodified model of transformers with three layers and no dropout."""
    import transformers as t

    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if name == "hf_gpt2":
        config = t.GPT2Config(
            n_positions=SEQ,
            n_embd=32,
            n_layer=3,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **shape,
        )
        model: nn.Module = t.GPT2LMHeadModel(config)
    elif name == "hf_llama":
        model = t.LlamaForCausalLM(
            t.LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=SEQ,
                **shape,
            )
        )
    else:
        model = t.BertForMaskedLM(
            t.BertConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=3,
                num_attention_heads=2,
                max_position_embeddings=SEQ,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                **shape,
            )
        )
    return Case(name, model, token_batches(), None)


MODELS = ("mnist", "gpt", "llama", "bert", "vit", "hf_gpt2", "hf_llama", "hf_bert")
TIED = frozenset({"bert", "hf_gpt2", "hf_bert"})
"""Models whose output weight is their embedding: its gradient has two parts, which arrive apart."""


@cache
def case_of(name: str) -> Case:
    return transformers_case(name) if name.startswith("hf_") else recipe_case(name)


# --- the reference ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a run leaves: a loss per step, the weights and the optimizer's state at the end."""

    losses: tuple[float, ...]
    weights: dict[str, Tensor]
    state: dict[str, Tensor] = field(default_factory=dict)
    """`weight/key` -> tensor, as in a checkpoint."""


@contextmanager
def as_captured() -> Iterator[None]:
    """transformers asks whether it is being exported, and then repeats key heads and writes its masks out.

    Capture says yes, because the checks that transformers skips for it read tensors. A plain run that says yes as well
    runs the same operators; one that does not computes the same values by others, in another order of additions.
    """
    before, torch.compiler._is_exporting_flag = torch.compiler._is_exporting_flag, True
    try:
        yield
    finally:
        torch.compiler._is_exporting_flag = before


Around = Callable[[int, int], AbstractContextManager[Any]]
"""(step, first row) -> a context for the forward and backward of one microbatch."""


def plain(
    case: Case,
    replicas: Sequence[Sequence[int]] = ((BATCH,),),
    *,
    steps: int = STEPS,
    optimizer: Optimizer = adamw,
    fraction: Callable[[int, int], float] = lambda rows, batch: rows / batch,
    permute: Callable[[int], Sequence[int]] | None = None,
    before_update: Callable[[nn.Module, torch.optim.Optimizer, int], None] = lambda *_: None,
    around: Around = lambda step, row: nullcontext(),
    forward: Callable[[], AbstractContextManager[Any]] = nullcontext,
    scaler: Callable[[], torch.amp.GradScaler] | None = None,
) -> Run:
    """A plain PyTorch loop. `replicas`: for each the sizes of its microbatches, in order of the batch's rows.

    Gradients of one replica add up in `.grad`; those of several are added as neighbours, ((0+1)+(2+3))+..., which is
    how SwarmX promises to add them. permute: another order of each batch's samples. scaler: makes a loss scale.
    """
    module = case.fresh()
    parameters = [p for p in module.parameters() if p.requires_grad]
    chosen = optimizer(module.parameters())
    scaling = scaler() if scaler else torch.amp.GradScaler("cpu", enabled=False)
    losses = []
    for step in range(steps):
        batch = case.data.batch(step)
        total = len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])
        if permute is not None:
            order = torch.as_tensor(permute(total))
            batch = (
                {k: v[order] for k, v in batch.items()}
                if isinstance(batch, dict)
                else tuple(v[order] for v in batch)
            )
        start, sums, collected = 0, [], []
        for sizes in replicas:
            chosen.zero_grad(set_to_none=True)
            summed = 0.0
            for size in sizes:
                with around(step, start):
                    with forward():
                        loss = case.loss_of(rows_of(batch, start, start + size))
                    tangent = scaling.scale(torch.tensor(fraction(size, total)))
                    loss.backward(gradient=tangent.to(loss.dtype))
                summed += float(loss.detach()) * size
                start += size
            sums.append(summed)
            collected.append([p.grad for p in parameters])
        for parameter, *grads in zip(parameters, *collected, strict=True):
            parameter.grad = _neighbours(grads) if grads[0] is not None else None
        before_update(module, chosen, step)
        scaling.step(chosen)
        scaling.update()
        losses.append(sum(sums) / total)
    state = {
        f"{name}/{key}": value
        for name, parameter in module.named_parameters()
        for key, value in chosen.state[parameter].items()
    }
    return Run(tuple(losses), case.weights, state)


def _neighbours(parts: list[Tensor]) -> Tensor:
    """Add equal tensors pairwise: an order written down here on its own, not taken from the code under test."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << (len(parts) - 1).bit_length() - 1
    return _neighbours(parts[:half]) + _neighbours(parts[half:])


# --- the system under test --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Streamed(Run):
    """A run on a cluster."""

    result: FitResult
    logs: list[dict[str, float]]
    """What the update rule reports, by step."""
    metrics: list[dict[str, float]]

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.open(self.result.checkpoint)

    @property
    def plan(self) -> Plan:
        return plan_from_json((self.result.folder / "plan.json").read_bytes())


def streamed(
    case: Case,
    folder: Path,
    *,
    systems: int = 1,
    execution: str = "weight_streaming",
    store: str = "ram",
    microbatch: int | None = None,
    recompute: bool = False,
    processes: bool = False,
    device: str = "cpu",
    shard_vocabulary: bool | str = "auto",
    steps: int = STEPS,
    optimizer: Any = adamw,
    precision: str = "fp32",
    seed: int = 0,
    data: Any = None,
    metrics: Mapping[str, Callable[..., Tensor]] | None = None,
    **fit: Any,
) -> Streamed:
    """The same run on a cluster: one thread of arithmetic per system and ATen's matrix products, as plain PyTorch here.

    optimizer: a function of the parameters that returns a torch optimizer, or an update rule.
    """
    module = case.fresh()
    if inspect.isfunction(optimizer):
        optimizer = optimizer(module.parameters())
    trainer = Trainer(
        module,
        optimizer=optimizer,
        loss=case.loss,
        metrics=metrics,
        cluster=LocalCluster(
            systems=systems,
            execution=execution,
            memoryx=store,
            microbatch=microbatch,
            recompute=recompute,
            processes=processes,
            device=device,
            shard_vocabulary=shard_vocabulary,
            threads=1,
            matmul="torch",
            stall_s=60.0,
        ),
        precision=precision,
        seed=seed,
        folder=folder,
        name=case.name,
    )
    logs: list[dict[str, float]] = []
    measured: list[dict[str, float]] = []

    def note(done: StepDone) -> None:
        logs.append(dict(done.logs))
        measured.append(dict(done.metrics))

    result = trainer.fit(
        case.data if data is None else data,
        steps=steps,
        callbacks=[note],
        **fit,
    )
    return Streamed(result.losses, case.weights, result=result, logs=logs, metrics=measured)


# --- comparing --------------------------------------------------------------------------------------------


def same_bits(found: Run, expected: Run) -> None:
    """Losses of every step and final weights are equal bit for bit."""
    assert found.losses == expected.losses
    assert found.weights.keys() == expected.weights.keys()
    different = [
        name for name, value in expected.weights.items() if not torch.equal(found.weights[name], value)
    ]
    assert not different


ORDERS: tuple[dict[str, Any], ...] = (
    {"permute": lambda total: list(reversed(range(total)))},
    {"permute": lambda total: [(row * 3) % total for row in range(total)]},
    {"replicas": ((1,) * BATCH,)},
    {"replicas": ((3, 3, 2),), "permute": lambda total: list(reversed(range(total)))},
)
"""Other orders of the same additions: samples permuted, microbatches of other sizes."""

MARGIN = 8.0


@dataclass(frozen=True)
class Spread:
    """How far apart plain PyTorch runs lie that differ in nothing but the order of their float32 additions.

    `centre` is the plain run with the whole batch at once; `weights` and `loss` are the largest distances of the runs
    of ORDERS from it. The distance of a weight is the root mean square over its elements. Each order makes rounding
    errors of the same number and size, which the same steps of the same optimizer magnify. So a cluster's order, one
    more of them, lies at a distance from the centre drawn from the same distribution, and the question is how often
    one draw exceeds MARGIN times the largest of four. Even for a weight whose elements all err alike, so that the
    distance is one normal number x, P(|x| > 8 max of 4) = integral of 4 (0.8 t)^3 0.8 P(|x| > 8 t) dt = 0.0003; a root
    mean square over many elements varies less. Near 1, float32 numbers lie so far apart that four orders may agree to
    the last bit, so one spacing of each element is allowed on top.
    `test_the_tolerance_finds_a_wrong_fraction` shows that this is not too wide.
    """

    centre: Run
    weights: dict[str, float]
    loss: float

    def outside(self, found: Run) -> list[str]:
        """What lies outside: names of weights, `loss of step ...`."""
        apart = distance(found.weights, self.centre.weights)
        return [
            *(name for name, value in apart.items() if value > self.allowed(name)),
            *(
                f"loss of step {step}"
                for step, (one, other) in enumerate(zip(found.losses, self.centre.losses, strict=True))
                if abs(one - other) > MARGIN * self.loss
            ),
        ]

    def allowed(self, name: str) -> float:
        """The largest distance of a weight that counts as equal."""
        spacing = torch.finfo(torch.float32).eps * float(
            self.centre.weights[name].double().square().mean().sqrt()
        )
        return MARGIN * self.weights[name] + spacing


def spread_of(case: Case, **options: Any) -> Spread:
    """The spread of the plain runs of a case; `options` go to all of them."""
    centre = plain(case, **options)
    others = [plain(case, **options, **order) for order in ORDERS]
    apart = [distance(other.weights, centre.weights) for other in others]
    return Spread(
        centre,
        {name: max(entry[name] for entry in apart) for name in apart[0]},
        max(abs(a - b) for other in others for a, b in zip(other.losses, centre.losses, strict=True)),
    )


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """For each weight the root mean square of the difference."""
    return {
        name: float((one[name].double() - value.double()).square().mean().sqrt())
        for name, value in other.items()
        if value.is_floating_point()
    }


# --- speed ------------------------------------------------------------------------------------------------


_captures: dict[Any, Any] = {}


@contextmanager
def quick() -> Iterator[None]:
    """Reuse captures of one module, and draw no pictures: neither is what these tests are about.

    A capture depends on the module, the samples, training or evaluation, the rule and the precision, and on nothing of
    the cluster, so runs of one model on different clusters share it.
    """
    made = _captures
    capture = _trainer.capture

    def cached(
        module: Any, step: Any, types: Any, samples: int, rule: Any, precision: Any, **shards: Any
    ) -> Any:
        frozen = tuple(p.requires_grad for p in module.parameters())
        key = (id(module), frozenset(types.items()), samples, module.training, repr(rule), precision, frozen)
        key += (repr(shards),)
        if key not in made:
            made[key] = module, capture(module, step, types, samples, rule, precision, **shards)
        return made[key][1]

    patch = pytest.MonkeyPatch()
    patch.setattr(_trainer, "capture", cached)
    patch.setattr(Timeline, "write_picture", lambda *_: None)
    patch.setattr(_reporter, "loss_picture", lambda *_, **__: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    patch.undo()
