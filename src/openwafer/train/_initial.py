"""Initial weights, one module at a time, so that a model larger than this machine is never built whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openwafer.artifact import Record
from openwafer.artifact import Tensor as Entry
from openwafer.base import CheckpointError, InputError
from openwafer.cluster.store import Weights
from openwafer.train.data._seeds import derive_seed


class _SkipInit(TorchFunctionMode):
    """Makes the functions of torch.nn.init leave their tensor as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def build_empty(factory: Callable[[], nn.Module]) -> nn.Module:
    """The factory's module with parameters on the meta device and real buffers.

    A parameter's memory is asked for and given back unused, one at a time; its initialisation is skipped.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            kept = module._parameters[name]
            assert kept is not None
            module._parameters[name] = nn.Parameter(
                kept.detach().to("meta"), requires_grad=kept.requires_grad
            )

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        with _SkipInit(), torch.random.fork_rng(devices=[]):
            return factory()
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class InitialWeights:
    """Gives the initial value of each weight by name: the module's own, imported, or made by its module's init.

    Modules on the meta device are initialised one at a time with `reset_parameters()` (or the `_init_weights` of a
    transformers model), each from a seed of its own: (seed, module name). Values then do not depend on the order or the
    split, but differ from those of building the module whole.

    A weight that is cut by rows is made whole, once for records that follow each other, since its rows come from one
    sequence of random numbers; an imported one is read shard by shard.
    """

    def __init__(self, module: nn.Module, seed: int, imported: Weights | None = None) -> None:
        self.module = module
        self._kept: dict[str, dict[str, Tensor]] = {}
        """By module: what it made, while the next record may hold more of it."""
        self.seed = seed
        self.imported = imported
        self._values = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }

    def fill(self, record: Record, tensors: Mapping[str, Tensor]) -> None:
        """Write a record's weights into `tensors` (name -> view over the record).

        Raises InputError for a module that cannot initialise itself, CheckpointError for imported weights that do not fit.
        """
        with self._materialised(record) as made:
            for entry in record.weights:
                tensors[entry.name].copy_(self._find(entry, made))

    def _find(self, entry: Entry, made: Mapping[str, Tensor]) -> Tensor:
        name = entry.whole
        if self.imported is not None and name in self.imported:
            shape = self.imported.types[name].shape
            if shape != tuple(self._values[name].shape):
                raise CheckpointError(
                    f"the imported weight {name} has shape {shape}, the model's has "
                    f"{tuple(self._values[name].shape)}; is it a checkpoint of another size?"
                )
            if entry.part is None:
                return self.imported[name]
            return self.imported.rows(name, entry.part.start, entry.part.start + entry.shape[0])
        value = made[name] if name in made else self._values[name].detach()
        return value if entry.part is None else value[entry.part.start : entry.part.start + entry.shape[0]]

    @contextmanager
    def _materialised(self, record: Record) -> Iterator[dict[str, Tensor]]:
        owners: dict[str, None] = {}
        parted = set()
        for entry in record.weights:
            value = self._values[entry.whole]
            given = self.imported is not None and entry.whole in self.imported
            if value.device.type == "meta" and not given:
                owner = entry.whole.rpartition(".")[0]
                owners[owner] = None
                parted |= {owner} if entry.part is not None else set()
        self._kept = {owner: made for owner, made in self._kept.items() if owner in parted}
        made: dict[str, Tensor] = {}
        for owner in owners:
            own = self._kept[owner] if owner in self._kept else self._initialise(owner)
            made.update(own)
            if owner in parted:
                self._kept[owner] = own
        yield made

    def _initialise(self, owner: str) -> dict[str, Tensor]:
        module = self.module.get_submodule(owner)
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        transformers_init = getattr(self.module, "_init_weights", None)
        if reset is None and transformers_init is None:
            raise InputError(
                f"{type(module).__name__} ({owner or 'the model itself'}) holds parameters of its own but has no "
                "reset_parameters(); define it, or pass a module that is already built with its weights"
            )
        before = dict(module._parameters)
        try:
            for name, parameter in before.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(
                        torch.empty(parameter.shape, dtype=parameter.dtype)
                    )
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(derive_seed(self.seed, owner))
                if reset is not None:
                    reset()
                if transformers_init is not None:
                    transformers_init(module)
            prefix = f"{owner}." if owner else ""
            return {
                prefix + name: value.detach()
                for name, value in module._parameters.items()
                if value is not None
            }
        finally:
            module._parameters.update(before)
