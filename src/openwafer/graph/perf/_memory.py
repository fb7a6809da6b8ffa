"""Predict a system's memory by running its program over sizes alone.

Everything a system holds is named in the plan: slots of weights, values between calls (by storage, since views share
one), what a body makes while it runs, gradient slots, batches. Kernel workspaces are not; they are small beside these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from openwafer.artifact import (
    Action,
    Backward,
    Body,
    Call,
    Forward,
    Layer,
    ReceiveValues,
    SystemMemory,
    call_of,
    drops,
)


@dataclass(frozen=True)
class Sizes:
    """Bytes of a system's fixed parts."""

    weights: int
    gradients: int
    inputs: int


def system_memory(
    program: tuple[Action, ...],
    rows: tuple[int, ...],
    layers: Mapping[int, tuple[Layer, ...]],
    bodies: Mapping[str, Body],
    outside: frozenset[str],
    fixed: Sizes,
) -> SystemMemory:
    """Walk the program; `outside` names values whose bytes are counted elsewhere (weights, inputs, constants)."""
    held = _Held(outside)
    made: dict[int, dict[str, int]] = {}
    most = 0
    for action, dropped in zip(program, drops(program, rows, layers), strict=True):
        if isinstance(action, (Forward, Backward)):
            call = call_of(action, layers[rows[action.microbatch]])
            assert call is not None
            dying = {name for name in dropped if name not in call.outputs}
            most = max(most, held.run(call, bodies[call.body], action.microbatch, dying))
        elif isinstance(action, ReceiveValues):
            samples = rows[action.microbatch]
            if samples not in made:
                made[samples] = _made(layers[samples], bodies)
            for name in action.values:
                held.add((action.microbatch, name), None, made[samples][name])
            most = max(most, held.total)
        for name in dropped:
            held.drop((getattr(action, "microbatch", 0), name))
    return SystemMemory(
        weights=fixed.weights,
        activations=most,
        gradients=fixed.gradients,
        inputs=fixed.inputs,
        peak=most + fixed.weights + fixed.gradients + fixed.inputs,
    )


def _made(layers: tuple[Layer, ...], bodies: Mapping[str, Body]) -> dict[str, int]:
    """Bytes of every value that a call makes."""
    calls = [call for layer in layers for call in (layer.forward, layer.backward) if call is not None]
    return {
        name: bodies[call.body].type_of(index).nbytes
        for call in calls
        for name, index in zip(call.outputs, bodies[call.body].outputs, strict=True)
    }


class _Held:
    """Values that are alive, with the storages that they keep alive."""

    def __init__(self, outside: frozenset[str]) -> None:
        self.outside = outside
        self.storage: dict[tuple[int, str], int] = {}
        self.users: dict[int, int] = {}
        self.size: dict[int, int] = {}
        self.total = 0
        self.next = 0

    def add(self, key: tuple[int, str], storage: int | None, nbytes: int) -> int:
        if storage is None:
            storage = self.next
            self.next += 1
            self.size[storage] = nbytes
            self.users[storage] = 0
            self.total += nbytes
        self.storage[key] = storage
        self.users[storage] += 1
        return storage

    def drop(self, key: tuple[int, str]) -> None:
        storage = self.storage.pop(key, None)
        if storage is not None:
            self.users[storage] -= 1
            if not self.users[storage]:
                self.total -= self.size.pop(storage)

    def run(self, call: Call, body: Body, microbatch: int, dying: set[str]) -> int:
        """Account for one call; returns the most bytes alive while it runs."""
        freed = frozenset(
            index
            for index, name in enumerate(call.inputs)
            if isinstance(name, str) and name in dying and self._is_last((microbatch, name))
        )
        sizes = {index: self.size[self.storage[microbatch, call.inputs[index]]] for index in freed}  # type: ignore[index]
        most = self.total + _most(body, freed, tuple(sorted(sizes.items())))
        made: dict[int, int] = {}
        for name, index in zip(call.outputs, body.outputs, strict=True):
            owner = body.storage[index]
            if owner < len(body.inputs):
                source = call.inputs[owner]
                known = self.storage.get((microbatch, source)) if isinstance(source, str) else None
                if known is not None:
                    self.add((microbatch, name), known, 0)
                continue
            made[owner] = self.add((microbatch, name), made.get(owner), body.type_of(owner).nbytes)
        return most

    def _is_last(self, key: tuple[int, str]) -> bool:
        storage = self.storage.get(key)
        return storage is not None and self.users[storage] == 1


@cache
def _most(body: Body, freed: frozenset[int], sizes: tuple[tuple[int, int], ...]) -> int:
    """Most bytes that a body adds to what was alive before it, when inputs `freed` die inside it."""
    death: dict[int, int] = {}
    for index, owner in enumerate(body.storage):
        if owner in freed:
            death[owner] = max(death.get(owner, -1), body.last_use.get(index, len(body.instrs)))
    size = dict(sizes)
    gone: dict[int, int] = {}
    for owner, position in death.items():
        gone[position] = gone.get(position, 0) + size[owner]
    most, released = 0, gone.get(-1, 0)
    for position, live in enumerate(body.live_bytes):
        most = max(most, live - released)
        released += gone.get(position, 0)
    return most
