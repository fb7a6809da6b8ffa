"""The Trainer: a model, a loss, an optimizer and a cluster; `fit` trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from openwafer.artifact import Plan, TensorType, describe_plan, plan_to_json
from openwafer.base import (
    CheckpointError,
    InputError,
)
from openwafer.cluster import check_device, device_memory
from openwafer.cluster.store import (
    Checkpoint,
    list_checkpoints,
)
from openwafer.graph import PlanOptions, Shards, StepGraph, capture, plan_job
from openwafer.graph import Precision as ComputePrecision
from openwafer.train._config import LocalCluster, Precision, RunConfig
from openwafer.train._describe import describe
from openwafer.train._hosts import HostsCluster
from openwafer.train._initial import build_empty
from openwafer.train._run import Callback, FitResult, Run, Setup
from openwafer.train._saved import SavedPlans
from openwafer.train._step import input_types, make_step
from openwafer.train.data import BatchSource, from_loader
from openwafer.train.optim import DynamicLossScale, UpdateRule, resolve
from openwafer.train.report import RunFolder

PRECISIONS: dict[str, ComputePrecision] = {
    "fp32": ComputePrecision(),
    "bf16": ComputePrecision(compute=torch.bfloat16),
    "fp16": ComputePrecision(compute=torch.float16),
    "bf16-autocast": ComputePrecision(autocast=torch.bfloat16),
}


class Trainer:
    """Trains a model on a cluster; the numbers are those of plain PyTorch on one device.

    model: a module, or a function that makes one (then it is never built whole). loss, metrics and the batch are called
    as RunConfig describes. optimizer: an update rule, or a `torch.optim` optimizer over the model's parameters.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        *,
        optimizer: UpdateRule | torch.optim.Optimizer,
        loss: Callable[..., Tensor] | None = None,
        metrics: Mapping[str, Callable[..., Tensor]] | None = None,
        cluster: LocalCluster | None = None,
        precision: Precision = "fp32",
        seed: int = 0,
        folder: str | Path | None = None,
        name: str | None = None,
        weights: str | Path | Mapping[str, Tensor] | None = None,
        console: Console | None = None,
    ) -> None:
        """`weights`: a checkpoint or state_dict to start from, read tensor by tensor."""
        self.module = model if isinstance(model, nn.Module) else build_empty(model)
        self._owned = isinstance(model, nn.Module)
        self.loss = loss
        self.metrics = dict(metrics or {})
        self.cluster = cluster or LocalCluster()
        self.precision = precision
        self.seed = seed
        self.name = name or type(self.module).__name__.lower()
        self.folder = Path(folder) if folder is not None else Path("runs", self.name)
        self.console = console
        self._weights = weights
        self._saved: SavedPlans | None = None
        rule = resolve(optimizer, self.module.named_parameters())
        if precision == "fp16" and rule.loss_scale(rule.globals()) is None:
            rule = DynamicLossScale(rule)
        self.optimizer = rule
        settings: Any = getattr(self.module, "config", None)
        if getattr(settings, "use_cache", False):
            # A key-value cache is of no use in training, and keeps every layer's keys.
            settings.use_cache = False

    @classmethod
    def from_config(
        cls, config: RunConfig, console: Console | None = None, saved: SavedPlans | None = None
    ) -> Trainer:
        """The trainer of a recipe. saved: plans of that recipe that need not be made again."""
        trainer = cls(
            config.model,
            optimizer=config.optimizer,
            loss=config.loss,
            metrics=config.metrics,
            cluster=config.cluster,
            precision=config.precision,
            seed=config.seed,
            folder=config.run_folder,
            name=config.name,
            console=console,
        )
        trainer._saved = saved
        return trainer

    # --- planning -------------------------------------------------------------------------------------

    def plan(self, train: BatchSource | Iterable[Any], *, evaluate: bool = False) -> Plan:
        """The plan for batches like those of `train`. Runs nothing, allocates nothing of the model's size."""
        return self._plan(_source(train, self.seed), evaluate)

    def _plan(self, source: BatchSource, evaluate: bool) -> Plan:
        batch = source.batch(0)
        types = input_types(batch)
        step = make_step(self.module, batch, self.loss, self.metrics)

        def capture_step(samples: int, train: bool, shards: Shards | None = None) -> StepGraph:
            training = self.module.training
            self.module.train(train)
            try:
                return capture(
                    self.module,
                    step,
                    types,
                    samples,
                    self.optimizer if train else None,
                    PRECISIONS[self.precision],
                    **({"shards": shards} if shards else {}),
                )
            finally:
                self.module.train(training)

        options = PlanOptions(
            batch=source.batch_size,
            systems=self.cluster.systems,
            execution=self.cluster.execution,
            microbatch=self.cluster.microbatch,
            system_memory=self._system_memory(),
            store=self.cluster.store,
            memoryx_memory=self.cluster.memoryx_memory_bytes,
            memoryx_shards=self.cluster.shards,
            recompute=self.cluster.recompute,
            evaluate=evaluate,
            own_memory=self.cluster.has_own_memory,
            shard_vocabulary=self.cluster.shard_vocabulary,
        )

        def make() -> Plan:
            return plan_job(self.name, capture_step, options, self._divisible())

        if self._saved is None:
            return make()
        parts = (self.loss, self.metrics, self.optimizer)
        facts = (self.name, type(batch).__name__, list(types.items()), self.precision, options, parts)
        return self._saved.plan(self.module, describe(facts), make)

    def _write_plan(self, folder: RunFolder, source: BatchSource, evaluate: bool) -> Plan:
        plan = self._plan(source, evaluate)
        folder.write(folder.plan, plan_to_json(plan))
        folder.write(folder.plan_text, describe_plan(plan))
        return plan

    def _divisible(self) -> dict[str, TensorType]:
        """Weights that may be cut by rows: nothing in their update looks across elements."""
        return {
            name: TensorType(str(value.dtype).removeprefix("torch."), tuple(value.shape))
            for name, value in self.module.named_parameters()
            if not value.requires_grad or self.optimizer.is_elementwise(name, value)
        }

    def _system_memory(self) -> int | None:
        """The budget that the user gave; for GPUs of this machine else what they have. Other hosts' are not known yet."""
        cluster = self.cluster
        if cluster.system_memory_bytes is not None or isinstance(cluster, HostsCluster):
            return cluster.system_memory_bytes
        return device_memory(cluster.device, cluster.systems)

    # --- training -------------------------------------------------------------------------------------

    def fit(
        self,
        train: BatchSource | Iterable[Any],
        eval: BatchSource | Iterable[Any] | None = None,
        *,
        steps: int,
        eval_every: int = 0,
        eval_batches: int = 8,
        checkpoint_every: int = 0,
        keep_checkpoints: int = 3,
        resume: bool = False,
        overwrite: bool = False,
        callbacks: Sequence[Callback] = (),
        config: Mapping[str, Any] | None = None,
        fail: str = "",
    ) -> FitResult:
        """Train until `steps` steps are done in all, counting those of the run that is resumed.

        train, eval: a DataLoader, any iterable of batches, or a BatchSource. The run folder gets the config, the
        plan, the log, metrics, TensorBoard summaries, checkpoints, a timeline and pictures. A module that was passed
        built gets the final weights. A role that is lost is replaced: the run goes on from its last checkpoint, to the
        same numbers.
        Ctrl-C ends after the steps in hand, with a checkpoint.

        Raises CaptureError and PlanError before anything runs; NumericsError if the loss or a weight becomes NaN (the
        last good checkpoint stays); RunFolderError, StorageError, CheckpointError, RoleError.
        """
        source = _source(train, self.seed)
        eval_source = _source(eval, self.seed) if eval is not None else None
        if eval_source is not None and eval_source.batch_size != source.batch_size:
            raise InputError(
                f"the evaluation batch has {eval_source.batch_size} samples, the training batch {source.batch_size}; give both "
                "the same batch size"
            )
        if eval_every and eval_source is None:
            raise InputError(
                f"eval_every is {eval_every}, but there is no evaluation data; pass eval or set it to 0"
            )
        described = (
            dict(config)
            if config is not None
            else {"name": self.name, "seed": self.seed, "precision": self.precision}
        )
        apart = self.cluster.uses_processes and (self.cluster.input_processes or not fail.startswith("input"))
        if fail and not apart:
            raise InputError(
                f"fail={fail!r} kills a role that is no process of its own, and so this process; set processes=True and, "
                "for an input worker, input_processes=True"
            )
        if resume and not overwrite and not list_checkpoints(RunFolder(self.folder).checkpoints):
            raise InputError(
                f"{self.folder} has no checkpoint to go on from; leave --resume away to start a run there, or name the "
                "folder of an earlier run (--folder)"
            )
        if not isinstance(self.cluster, HostsCluster):
            check_device(self.cluster.device)
        with RunFolder.create(self.folder, described, resume=resume, overwrite=overwrite) as folder:
            plan = self._write_plan(folder, source, eval_source is not None)
            run = Run(
                Setup(self.module, self._weights, self.cluster, self.seed, self.console, self._saved),
                folder,
                plan,
                source,
                eval_source,
                steps=steps,
                eval_every=eval_every,
                eval_batches=eval_batches,
                checkpoint_every=checkpoint_every,
                keep_checkpoints=keep_checkpoints,
                callbacks=callbacks,
                fail=fail,
            )
            result = run.run(resume)
        if self._owned:
            load_into(self.module, result.checkpoint)
        return result


def fit_config(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
    saved: SavedPlans | None = None,
) -> FitResult:
    """Train what a recipe describes. saved: plans of that recipe that need not be made again."""
    with saved.watching() if saved is not None else nullcontext():
        trainer = Trainer.from_config(config, console, saved)
    return trainer.fit(
        config.train(),
        config.eval() if config.eval else None,
        steps=config.steps,
        eval_every=config.eval_every,
        eval_batches=config.eval_batches,
        checkpoint_every=config.checkpoint_every,
        keep_checkpoints=config.keep_checkpoints,
        resume=resume,
        overwrite=overwrite,
        callbacks=callbacks,
        config=config.describe(),
    )


def compile_config(config: RunConfig, saved: SavedPlans) -> Plan:
    """Plan what a recipe describes, for `fit_config` to find; the run folder gets the plan, and nothing runs."""
    with saved.watching():
        trainer = Trainer.from_config(config, saved=saved)
    source, evaluate = config.train(), config.eval is not None
    with RunFolder.create(trainer.folder, config.describe(), overwrite=True) as folder:
        return trainer._write_plan(folder, source, evaluate)


def plan_config(config: RunConfig, *, evaluate: bool = False) -> Plan:
    """The plan of what a recipe describes; with `evaluate` also how evaluation runs, if the recipe has any."""
    return Trainer.from_config(config).plan(config.train(), evaluate=evaluate and config.eval is not None)


def memoryx_bytes(config: RunConfig) -> int:
    """Bytes of weights and optimizer state that MemoryX keeps for a run. Allocates nothing of the model's size."""
    trainer = Trainer.from_config(config)
    tensors = [
        tensor
        for name, weight in trainer.module.named_parameters()
        for tensor in (weight, *trainer.optimizer.state(name, weight).values())
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def load_into(module: nn.Module, checkpoint: str | Path) -> None:
    """Copy a checkpoint's weights into a plain PyTorch module, tied names and all.

    Raises CheckpointError if a parameter of the module is not in the checkpoint.
    """
    found = Checkpoint.open(checkpoint)
    names: dict[int, str] = {}
    for name, value in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        if id(value) in names:
            continue
        names[id(value)] = name
        if name not in found.types:
            raise CheckpointError(f"{checkpoint} has no {name}; is it a checkpoint of another model?")
        with torch.no_grad():
            value.copy_(found.tensor(name))


def _source(data: BatchSource | Iterable[Any], seed: int) -> BatchSource:
    return data if isinstance(data, BatchSource) else from_loader(data, seed)
