"""What a run is: a model, data, a loss, an optimizer and a cluster, as frozen, printable data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

from openwafer.base import InputError, parse_bytes
from openwafer.cluster import has_own_memory
from openwafer.train._describe import describe, render
from openwafer.train._recipe import run_recipe
from openwafer.train.data import BatchSource
from openwafer.train.optim import UpdateRule

Execution = Literal["auto", "weight_streaming", "pipelined"]
Matmul = Literal["auto", "torch", "onednn"]
Precision = Literal["fp32", "bf16", "fp16", "bf16-autocast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCluster:
    """The roles of one machine: compute systems, MemoryX and input workers.

    Raises InputError for a value that no cluster can have.
    """

    systems: int = 1
    system_memory: int | str | None = None
    """Budget of one system, in bytes or as `512MiB`; None: no budget."""
    memoryx: str = "ram"
    """Where weights and optimizer state live: `ram`, `disk` (in the run folder), `disk:/path`, or a folder on each of
    several disks, `disk:/path,/other`, each for one shard."""
    memoryx_shards: int | None = None
    """MemoryX roles that share the layers; None: one, or one for each folder that `memoryx` names."""
    memoryx_memory: int | str | None = None
    """RAM that a disk store may use: what its buffers leave keeps whole layers there. None: buffers only. "auto": as many
    layers as hide the disk behind the arithmetic, by a measurement before the run, if there is room for them."""
    execution: Execution = "auto"
    microbatch: int | Literal["auto"] | None = "auto"
    """Samples per microbatch; None: the whole share of a system at once."""
    recompute: bool | Literal["auto"] = "auto"
    shard_vocabulary: bool | Literal["auto"] = "auto"
    """Whether a vocabulary's weights are cut by rows into several records; "auto": where they set the peak of memory."""
    processes: bool | None = None
    """Whether every role is a process; None: threads for one system, processes for several."""
    input_processes: bool = False
    """Whether input workers are processes too, where roles are; then the data must pickle. Else they are threads."""
    threads: int | None = None
    """Threads of arithmetic per system; None: the cores of this machine shared among the systems."""
    matmul: Matmul = "auto"
    device: str = "cpu"
    """What systems compute on: `cpu`, `cuda` (systems take the GPUs in turn) or `cuda:N`. MemoryX stays on the host."""
    stall_s: float = 300.0
    """How long a role waits for another before the run ends with StallError, beside what the bytes and the arithmetic
    of a step take on a slow machine."""

    def __post_init__(self) -> None:
        _at_least("LocalCluster", "systems", self.systems, 1)
        _one_of("LocalCluster", "execution", self.execution, get_args(Execution))
        _one_of("LocalCluster", "matmul", self.matmul, get_args(Matmul))
        if self.system_memory is not None and parse_bytes(self.system_memory) <= 0:
            raise InputError(
                f"LocalCluster: system_memory is {self.system_memory!r}; give a size such as 512MiB, or None"
            )
        if self.memoryx_memory_bytes is not None and self.memoryx_memory_bytes <= 0:
            raise InputError(
                f'LocalCluster: memoryx_memory is {self.memoryx_memory!r}; give a size such as 2GiB, "auto" or None'
            )
        store, colon, folders = self.memoryx.partition(":")
        if store not in ("ram", "disk") or (colon and (store == "ram" or not all(folders.split(",")))):
            raise InputError(
                f"LocalCluster: memoryx is {self.memoryx!r}; write ram, disk, disk:/path/of/a/folder or "
                "disk:/path/on/one/disk,/path/on/another"
            )
        if len(set(self._named_folders)) < len(self._named_folders):
            raise InputError(
                f"LocalCluster: memoryx is {self.memoryx!r}, but each shard needs a folder of its own"
            )
        if self.memoryx_shards is not None:
            _at_least("LocalCluster", "memoryx_shards", self.memoryx_shards, 1, "a number, or None")
        if len(self._named_folders) > 1 and self.shards != len(self._named_folders):
            raise InputError(
                f"LocalCluster: memoryx names {len(self._named_folders)} folders, but memoryx_shards is {self.memoryx_shards}; "
                "name a folder for each shard, or one for all, or leave memoryx_shards out"
            )
        if self.microbatch is not None and self.microbatch != "auto":
            _at_least("LocalCluster", "microbatch", self.microbatch, 1, 'a number, "auto" or None')
        if not isinstance(self.recompute, bool):
            _one_of("LocalCluster", "recompute", self.recompute, ("auto", True, False))
        if not isinstance(self.shard_vocabulary, bool):
            _one_of("LocalCluster", "shard_vocabulary", self.shard_vocabulary, ("auto", True, False))
        if self.processes is not None and not isinstance(self.processes, bool):
            raise InputError(
                f"LocalCluster: processes is {self.processes!r}, but it must be True, False or None"
            )
        _one_of("LocalCluster", "input_processes", self.input_processes, (False, True))
        if self.threads is not None:
            _at_least("LocalCluster", "threads", self.threads, 1, "a number, or None to share the cores")
        try:
            has_own_memory(self.device)
        except InputError as error:
            raise InputError(f"LocalCluster: {error}") from None
        if self.memoryx_memory == "auto" and self.has_own_memory:
            raise InputError(
                f"LocalCluster: memoryx_memory is 'auto' with device {self.device!r}, but what hides the disk is measured for "
                "systems on the CPU only; give a size such as 64GiB, or None"
            )
        if not self.stall_s > 0:
            raise InputError(f"LocalCluster: stall_s is {self.stall_s!r}, but it must be above 0 seconds")

    @property
    def system_memory_bytes(self) -> int | None:
        """The budget of one system in bytes, or None for no budget."""
        return None if self.system_memory is None else parse_bytes(self.system_memory)

    @property
    def has_own_memory(self) -> bool:
        """Whether systems compute in memory that is not the host's."""
        return has_own_memory(self.device)

    @property
    def memoryx_memory_bytes(self) -> int | None:
        """The RAM of a disk store in bytes; None for its buffers only, or where it is chosen when the run starts."""
        if self.memoryx_memory is None or self.memoryx_memory == "auto":
            return None
        return parse_bytes(self.memoryx_memory)

    @property
    def store(self) -> Literal["ram", "disk"]:
        """Where MemoryX keeps weights and optimizer state."""
        return "ram" if self.memoryx == "ram" else "disk"

    @property
    def shards(self) -> int:
        """`memoryx_shards`, with None decided."""
        return max(1, len(self._named_folders)) if self.memoryx_shards is None else self.memoryx_shards

    def store_folders(self, run_folder: Path) -> tuple[Path, ...]:
        """Where the disk store of each MemoryX shard lies; nowhere for `ram`."""
        if self.store == "ram":
            return ()
        folders = self._named_folders or (run_folder / "memoryx",)
        if len(folders) == self.shards:
            return folders
        return tuple(folders[0] / f"shard-{shard}" for shard in range(self.shards))

    @property
    def _named_folders(self) -> tuple[Path, ...]:
        _, _, folders = self.memoryx.partition(":")
        return tuple(Path(folder).expanduser() for folder in folders.split(",") if folder)

    @property
    def uses_processes(self) -> bool:
        """`processes`, with None decided."""
        return self.systems > 1 if self.processes is None else self.processes

    @property
    def threads_per_system(self) -> int:
        """`threads`, with None decided: the cores that this process may use, over the systems; at least 1."""
        return max(1, cores() // self.systems) if self.threads is None else self.threads

    def describe(self) -> dict[str, Any]:
        """Every field, as data that `json.dumps` takes."""
        return _described(self)

    def __str__(self) -> str:
        return render(self.describe())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One training run, complete: what `recipe(...)` returns and the Trainer takes.

    How a step calls the parts: a tuple batch is `model(*batch[:-1])` and `loss(output, batch[-1])`; a dict
    batch is `model(**inputs)`, where the inputs are the entries that the model's forward names, and
    `loss(output, batch)`. Without `loss` the model gets the whole batch and returns the loss: a scalar, a
    tuple that begins with it, or an object with `.loss`. The loss is a mean over samples.

    Derive with `dataclasses.replace`; `print(config)` shows every field.

    Raises InputError for a value that no run can have.
    """

    name: str
    model: Callable[[], nn.Module]
    """A factory. It is called without memory for the weights to plan the run, and layer by layer to
    initialise them, so every module with parameters of its own has `reset_parameters()`."""
    train: Callable[[], BatchSource]
    """A factory of the training data; its batch size is the run's."""
    eval: Callable[[], BatchSource] | None = None
    loss: Callable[..., Tensor] | None = None
    metrics: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    """Functions with the arguments of `loss`, each a scalar that is a mean over samples."""
    optimizer: UpdateRule
    steps: int
    eval_every: int = 0
    """Steps between evaluations; 0: never."""
    eval_batches: int = 8
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: only at the end."""
    keep_checkpoints: int = 3
    precision: Precision = "fp32"
    """What systems compute in. Weights and optimizer state stay float32."""
    seed: int = 0
    cluster: LocalCluster = field(default_factory=LocalCluster)
    folder: str | None = None
    """Where logs, summaries and checkpoints go; None: `runs/<name>`."""

    def __post_init__(self) -> None:
        if not self.name or self.name in (".", "..") or any(sign in self.name for sign in "/\\\0\n"):
            raise InputError(
                f"RunConfig: name is {self.name!r}; it names a folder, so write letters, digits, - and _"
            )
        for part in ("model", "train", "eval"):
            factory = getattr(self, part)
            made = isinstance(factory, (nn.Module, BatchSource))
            if (factory is not None or part != "eval") and (made or not callable(factory)):
                raise InputError(
                    f"RunConfig: {part} is {_kind(factory)}, but it must be a function that makes one; "
                    f"write `{part}=lambda: ...` or use functools.partial"
                )
        if self.loss is not None and not callable(self.loss):
            raise InputError(f"RunConfig: loss is {_kind(self.loss)}, but it must be a function or None")
        for name, metric in self.metrics.items():
            if not callable(metric):
                raise InputError(
                    f"RunConfig: metric {name!r} is {_kind(metric)}, but it must be a function like loss"
                )
        if not isinstance(self.optimizer, UpdateRule):
            raise InputError(
                f"RunConfig: optimizer is {_kind(self.optimizer)}, but it must be an update rule such as "
                "AdamW(lr=1e-3) of openwafer.train.optim; `resolve` makes one of a torch optimizer"
            )
        _at_least("RunConfig", "steps", self.steps, 1)
        _at_least("RunConfig", "eval_every", self.eval_every, 0)
        _at_least("RunConfig", "eval_batches", self.eval_batches, 1)
        _at_least("RunConfig", "checkpoint_every", self.checkpoint_every, 0)
        _at_least("RunConfig", "keep_checkpoints", self.keep_checkpoints, 1)
        _one_of("RunConfig", "precision", self.precision, get_args(Precision))
        if self.eval_every and self.eval is None:
            raise InputError(
                f"RunConfig: eval_every is {self.eval_every}, but there is no eval data; give `eval` or set 0"
            )
        if not isinstance(self.cluster, LocalCluster):
            raise InputError(
                f"RunConfig: cluster is {_kind(self.cluster)}, but it must be a LocalCluster(...)"
            )

    @property
    def run_folder(self) -> Path:
        """`folder`, or `runs/<name>` below the current folder."""
        return Path(self.folder).expanduser() if self.folder else Path("runs", self.name)

    def describe(self) -> dict[str, Any]:
        """Every field, nested, as data that `json.dumps` takes; equal for equal configurations.

        Factories and functions appear by name, with their arguments where they are `functools.partial`.
        """
        return _described(self)

    def __str__(self) -> str:
        return render(self.describe())


def load_recipe(path: str | Path, **overrides: Any) -> RunConfig:
    """The config that the function `recipe` of a Python file returns for these arguments.

    Text (`steps="50"`, as the command line has it) is converted as the function's annotations say; other
    values are checked against them. The file is imported anew, under its own name, with its folder first
    in `sys.path`, so that it may import its neighbours.

    Raises InputError if the file or its function is missing, for an argument that the recipe does not
    take, needs or accepts, for an exception inside the file (with its line), and if the result is not a
    RunConfig.
    """
    config = run_recipe(path, overrides)
    if not isinstance(config, RunConfig):
        raise InputError(f"{path}: recipe returned {_kind(config)}, but it must return a RunConfig")
    return config


def _described(config: LocalCluster | RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = describe(config)
    return {name: value for name, value in found.items() if name != "kind"}


def _kind(value: object) -> str:
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _at_least(where: str, name: str, value: object, low: int, allowed: str = "a whole number") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(f"{where}: {name} is {value!r}, but it must be {allowed}, at least {low}")


def _one_of(where: str, name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{where}: {name} is {value!r}; take one of {', '.join(map(repr, allowed))}")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
