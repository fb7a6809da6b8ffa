"""Plans of recipes that were captured before: found again if nothing that decides them has changed since."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

import msgspec
import torch
from torch import nn

from openwafer.artifact import CompileCache, Plan, Witness, environment, open_plan
from openwafer.base import StorageError, WaferError
from openwafer.train._describe import describe

PREFIX = "train_"
MOST = 100
"""Plans kept in one folder; those used longest ago go."""
MEASURED_S = 86_400.0
"""After which bodies are measured anew: a machine changes, and may have been busy."""
_READS, _TIMES = "reads.json", "times.json"
_PLAIN = (bool, int, float, str, type(None), torch.dtype)


class Times(msgspec.Struct, frozen=True):
    """Seconds of one run of each body, and when that was measured (Unix time)."""

    at: float
    seconds: dict[str, float]


@final
class SavedPlans:
    """The compile cache of one recipe with its arguments.

    A plan is found by a hash of the arguments and options, the environment, the versions of Python and torch and this
    machine, the code of every module that is loaded, what the recipe's code read while it was loaded and made its model,
    and the names, types and plain settings of that model. What capturing it read in addition stands beside the plan and
    is compared. A recipe that starts programs or opens connections is captured every time.
    """

    def __init__(self, folder: Path, recipe: Path, arguments: Sequence[str], *, replan: bool = False) -> None:
        """folder: of the cache. replan: capture in any case, and keep that."""
        self._cache = CompileCache(folder)
        self._recipe = recipe
        self._arguments = list(arguments)
        self._replan = replan
        self._witness = Witness(recipe.parent)
        self.folder: Path | None = None
        """Where the plan lies, once it was found or kept."""
        self.note = ""
        """What became of the plan, in words for the user."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around all of the recipe's code that runs before `plan`, but for its data."""
        with self._witness.watching():
            yield

    def plan(self, module: nn.Module, facts: Mapping[str, Any], make: Callable[[], Plan]) -> Plan:
        """The plan that `make` would make. A cache that cannot be read or written only costs time.

        facts: all that decides the plan beside the recipe and the model, as data that JSON takes.
        """
        before = self._witness.modules()
        told = {
            "arguments": self._arguments,
            "recipe": self._recipe.name,
            "facts": facts,
            "module": _describe_module(module),
            "modules": before,
            "read": self._witness.read(),
            "environment": environment(),
            "machine": _machine(),
        }
        if self._witness.unrepeatable:
            self.note = f"Plan not kept: the recipe used {self._witness.unrepeatable}"
            return make()
        key = hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()
        name = PREFIX + key[:32]
        folder = None if self._replan else self._cache.find(name)
        if folder is not None and (plan := self._open(folder)) is not None:
            self.folder, self.note = folder, f"Plan from the compile cache, {name}"
            return plan
        late = Witness(self._recipe.parent, self._witness.since)
        with late.watching():
            plan = make()
        reads = {place: look for place, look in late.modules().items() if place not in before} | late.read()
        if late.unrepeatable:
            self.note = f"Plan not kept: capturing it used {late.unrepeatable}"
            return plan
        with suppress(StorageError):
            self.folder = self._cache.keep(name, plan, {_READS: msgspec.json.encode(reads)}, replace=True)
            self._cache.prune(PREFIX, MOST)
        return plan

    def _open(self, folder: Path) -> Plan | None:
        """The plan, if what capturing it read is still the same."""
        try:
            reads = msgspec.json.decode((folder / _READS).read_bytes(), type=dict[str, str])
            changed = next(
                (place for place, look in reads.items() if self._witness.look(place) != look), None
            )
            if changed is not None:
                self.note = f"Plan made anew: {changed} has changed"
                return None
            os.utime(folder)
            return open_plan(folder)
        except (OSError, msgspec.MsgspecError, WaferError):
            return None

    def times(self, question: Sequence[Any], measure: Callable[[], dict[str, float]]) -> Times:
        """Seconds of the plan's bodies, measured now or within the last day.

        question: what decides them beside the plan and the machine, as data that JSON takes.
        """
        file = None if self.folder is None else self.folder / _TIMES
        key = hashlib.sha256(msgspec.json.encode(question, order="sorted")).hexdigest()[:16]
        known: dict[str, Times] = {}
        if file is not None:
            with suppress(OSError, msgspec.MsgspecError):
                known = msgspec.json.decode(file.read_bytes(), type=dict[str, Times])
        now = time.time()
        known = {name: times for name, times in known.items() if 0 <= now - times.at < MEASURED_S}
        if key not in known or self._replan:
            known[key] = Times(now, measure())
            if file is not None:
                with suppress(OSError):
                    partial = file.with_name(f".{_TIMES}.{os.getpid()}")
                    partial.write_bytes(msgspec.json.encode(known))
                    partial.replace(file)
        return known[key]


def _describe_module(module: nn.Module) -> list[Any]:
    """What capture sees of a module beside its code: weights, buffers, and the settings that are plain values."""
    found: list[Any] = []
    for name, part in module.named_modules():
        settings = {key: str(value) for key, value in vars(part).items() if isinstance(value, _PLAIN)}
        found.append((name, describe(type(part)), settings))
    first: dict[int, str] = {}
    for values in (module.named_parameters, module.named_buffers):
        for name, value in values(remove_duplicate=False):
            same = first.setdefault(id(value), name)  # tied
            layout = (str(value.dtype), list(value.shape), list(value.stride()))
            found.append((name, same, *layout, value.requires_grad))
    return found


def _machine() -> list[str]:
    return [
        platform.node(),
        platform.machine(),
        sys.version,
        str(torch.__version__),
        torch.__config__.show(),
        torch.backends.cpu.get_cpu_capability(),
    ]
