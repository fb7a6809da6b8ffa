"""The parts of a step: which arguments are weights, what belongs to them, and where gradients are cut from the update.

weight      what systems read, or what has a gradient of its own
state       of the same gradient as a weight, read by its update alone (moments)
buffer      replaced by the forward itself (batch statistics)
global      a number of the whole job (step, loss scale)

What else the update reads of the samples are sums over the batch (the counts of a metric that is kept on the device). Each
travels as the gradient of a weight of its own that no sample reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from openwafer.base import CirhError
from openwafer.compat.cirh._batch import Batch, find_batch
from openwafer.compat.cirh._counters import find_counters
from openwafer.compat.cirh._function import Argument, Dense, Function, Op
from openwafer.compat.cirh._fuse import fuse
from openwafer.compat.cirh._kinds import Kind, Kinds, find_kinds
from openwafer.compat.cirh._rules import OPERANDS, REFUSED, RULES
from openwafer.compat.cirh._splats import split_splats

SUM = "sum."
"""Begins the names of sums; the client's begin with `state.`."""
RESOURCE, ALIAS, INPUT, OUTPUT = "tf.resource_name", "tf.aliasing_output", "cs.input_name", "cs.output_name"


@dataclass(slots=True)
class State:
    """One argument that lives on from step to step."""

    name: str
    """The client's name."""
    value: int
    new: int
    """Its value after the step; `value` itself if it does not change."""
    role: str = ""
    """weight, state, buffer or global."""
    owner: str = ""
    """For `state`: the weight that it belongs to."""
    tensor: str = ""
    """What checkpoints call it; for a global, the global's name."""


@dataclass(slots=True)
class Parts:
    """A function, taken apart."""

    function: Function
    batch: Batch
    kinds: Kinds
    inputs: dict[str, int]
    """Name -> argument."""
    states: dict[str, State]
    outputs: dict[str, int]
    """Name -> value, of results that are no state."""
    gradients: dict[str, int] = field(default_factory=dict)
    """Weight (the client's name) -> the value to cut at."""
    sums: dict[str, int] = field(default_factory=dict)
    """Name -> value, of sums over the batch that the update reads and that are no weight's gradient."""
    tallied: set[str] = field(default_factory=set)
    """States that such sums change."""
    reports: set[str] = field(default_factory=set)
    """Outputs that the update makes; the others are made with the samples."""
    counters: tuple[str, ...] = ()
    """States of which each step makes one, and one only, larger by one: their sum counts the steps."""


def take_apart(function: Function) -> Parts:
    """Find batch, weights, gradients and update of a function.

    Raises CirhError for an operation that is not run here, and for an update that no gradient can be cut from.
    """
    for op in function.ops:
        if op.name not in RULES:
            why = REFUSED.get(op.name, "this operation is not run here")
            raise CirhError(f"{function.where(op)}: {why}; docs/cirh.md lists the operations that are")
        count = OPERANDS.get(op.name)
        if count is not None and len(op.operands) != count:
            raise CirhError(f"{function.where(op)}: it has {len(op.operands)} operands, and needs {count}")
        if op.name == "Const" and not isinstance(op.attributes.get("value"), Dense):
            raise CirhError(f"{function.where(op)}: it has no value")
    function = split_splats(fuse(function))
    inputs = {str(a.attributes[INPUT]): a.value for a in function.arguments if INPUT in a.attributes}
    aliased = {
        int(index): str(a.attributes[RESOURCE])
        for a in function.arguments
        if RESOURCE in a.attributes and isinstance(index := a.attributes.get(ALIAS), int)
    }
    states: dict[str, State] = {}
    for argument in function.arguments:
        if RESOURCE in argument.attributes:
            name = str(argument.attributes[RESOURCE])
            if name in states:
                raise CirhError(
                    f"{function.text_name}: two arguments of @{function.name} are the state {name}"
                )
            states[name] = State(name, argument.value, _new_value(function, argument, name))
        elif INPUT not in argument.attributes:
            raise CirhError(
                f"{function.text_name}: argument {argument.value} of @{function.name} is neither state "
                f"({RESOURCE}) nor input ({INPUT})"
            )
    outputs = {
        str(result.attributes.get(OUTPUT, f"output_{index}")): result.value
        for index, result in enumerate(function.results)
        if index not in aliased
    }
    batch = find_batch(function, list(inputs.values()), lambda name: RULES[name].axes)
    kinds = find_kinds(function, list(inputs.values()), batch)
    parts = Parts(function, batch, kinds, inputs, states, outputs)
    _Cutter(parts).run()
    _name(parts)
    parts.counters = find_counters(function, [state for state in states.values() if state.role == "global"])
    return parts


def _new_value(function: Function, argument: Argument, name: str) -> int:
    """What a state becomes: the result that it is aliased with, or itself."""
    index = argument.attributes.get(ALIAS)
    if not isinstance(index, int):
        return argument.value
    if not 0 <= index < len(function.results):
        raise CirhError(
            f"{function.text_name}: the state {name} becomes result {index}, but there are {len(function.results)} results"
        )
    new = function.results[index].value
    if function.values[new] != function.values[argument.value]:
        raise CirhError(
            f"{function.text_name}: the state {name} is {function.values[argument.value]} and would become "
            f"{function.values[new]}"
        )
    return new


class _Cutter:
    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.function = parts.function
        self.made_by: dict[int, Op] = {v: op for op in self.function.ops for v in op.results}
        self.users: dict[int, list[Op]] = {}
        for op in self.function.ops:
            for value in op.operands:
                self.users.setdefault(value, []).append(op)
        self.kind = parts.kinds.of
        self.per_sample = {Kind.SAMPLES, Kind.PARTIAL}
        self._of_gradients: dict[int, bool] = {}
        """Values that are gradients or made of them: the update reads those that came up."""

    def run(self) -> None:
        """Fill `gradients` and the roles of states."""
        parts = self.parts
        changed = [state for state in parts.states.values() if state.new != state.value]
        chains = {state.name: self._chains(state) for state in changed}
        cuts = self._cuts([chain for found in chains.values() for chain in found])
        roots_of = {name: {cuts[chain[0]] for chain in found} for name, found in chains.items()}
        read = self._read_with_samples()
        groups: dict[int, list[State]] = {}
        for name, state in parts.states.items():
            shape = self.function.values[state.value].shape
            roots = roots_of.get(name, set())
            if state.value in read and (shape or name.startswith("state.model.")):
                state.role = "weight"
            elif not shape and not (len(roots) == 1 and state.value in read):
                state.role = "global"
            else:
                state.role = "state"
            if state.role != "global":
                for root in roots:
                    groups.setdefault(root, []).append(state)
        self._match(groups, roots_of, read)
        self._find_sums()
        self._find_owners()
        self._find_buffers()

    def _read_with_samples(self) -> set[int]:
        """Arguments from which, together with samples, something is computed."""
        wanted = [
            value
            for op in self.function.ops
            if any(
                self.kind[result] in self.per_sample and not self._is_sum_of_sums(op) for result in op.results
            )
            for value in op.operands
            if self.kind[value] is Kind.SHARED
        ]
        return self._ancestors(wanted)

    def _is_sum_of_sums(self, op: Op) -> bool:
        """Whether an operation only carries a partial sum on (unscales a gradient), which is the update's affair."""
        return all(self.kind[value] is not Kind.SAMPLES for value in op.operands)

    def _ancestors(self, values: list[int], within_update: bool = False) -> set[int]:
        """All that these are made of; `within_update`: not looking through single numbers, nor past gradients."""
        seen: set[int] = set()
        stack = list(values)
        while stack:
            value = stack.pop()
            if value in seen or (
                within_update
                and (not self.function.values[value].shape or self.kind[value] in self.per_sample)
            ):
                continue
            seen.add(value)
            if value in self.made_by:
                stack.extend(self.made_by[value].operands)
        return seen

    def _chains(self, state: State) -> list[tuple[int, ...]]:
        """The partial sums that a state's new value is made of, not looking through single numbers (norms, flags); each as the
        values from where it leaves the samples to where the update reads it."""
        values = self.function.values
        looks_at_numbers = not values[state.value].shape
        found: list[tuple[int, ...]] = []
        seen: set[int] = set()
        if (
            self.kind[state.new] in self.per_sample
        ):  # what the forward made is the new value: no update, no gradient
            return found
        stack = [state.new]
        while stack:
            value = stack.pop()
            if value in seen:
                continue
            seen.add(value)
            if not values[value].shape and not looks_at_numbers:
                continue
            if self.kind[value] in self.per_sample:
                found.append(self._chain(value))
            elif value in self.made_by:
                stack.extend(self.made_by[value].operands)
        return found

    def _chain(self, value: int) -> tuple[int, ...]:
        chain = [value]
        while self.kind[value] is Kind.PARTIAL and value not in self.parts.kinds.roots:
            sums = [v for v in self.made_by[value].operands if self.kind[v] is Kind.PARTIAL]
            if len(sums) != 1:
                break
            value = sums[0]
            chain.append(value)
        return tuple(reversed(chain))

    def _cuts(self, chains: list[tuple[int, ...]]) -> dict[int, int]:
        """Root -> where its gradient is cut: as far as all that read it go together, past its changes of shape and dtype, but
        not past what the update does to it with numbers of the job and masks."""
        common: dict[int, tuple[int, ...]] = {}
        for chain in chains:
            known = common.get(chain[0], chain)
            same = 0
            while same < min(len(known), len(chain)) and known[same] == chain[same]:
                same += 1
            common[chain[0]] = known[:same]
        cuts = {}
        for root, chain in common.items():
            keep = 1
            for position, value in enumerate(chain[1:], start=1):
                if self.made_by[value].name not in ("Mul", "Div", "Select"):
                    keep = position + 1
            cuts[root] = chain[keep - 1]
        return cuts

    def _match(self, groups: dict[int, list[State]], roots_of: dict[str, set[int]], read: set[int]) -> None:
        parts, values = self.parts, self.function.values
        for root, members in groups.items():
            if not any(state.value in read for state in members):
                continue  # no sample reads what it changes: a sum, and no gradient
            fitting = [
                state
                for state in members
                if roots_of[state.name] == {root}
                and values[state.value].shape == values[root].shape
                and values[state.value].element != "i1"
            ]
            weights = [state for state in fitting if state.role == "weight"] or fitting
            if not weights:
                names = ", ".join(state.name for state in members[:3])
                raise CirhError(
                    f"{self._where(root)}: the updates of {names} share this sum over the batch, which is the gradient of "
                    "no single weight of its shape; such an update is not run here"
                )
            weight = min(weights, key=lambda state: (not state.name.startswith("state.model."), state.value))
            weight.role = "weight"
            parts.gradients[weight.name] = root
            for state in members:
                if state is not weight and roots_of[state.name] == {root}:
                    state.owner = weight.name

    def _find_sums(self) -> None:
        """The sums over the batch that new states and reported numbers are made of, beside the gradients."""
        parts = self.parts
        cuts = set(parts.gradients.values())
        through = self._of_gradients
        through.update(dict.fromkeys(cuts, True))
        for op in self.function.ops:
            if any(through.get(value, False) for value in op.operands):
                through.update(dict.fromkeys(op.results, True))
        names: dict[int, str] = {}

        def sums_of(*ends: int) -> set[int]:
            found: set[int] = set()
            seen: set[int] = set()
            stack = list(ends)
            while stack:
                value = stack.pop()
                if value in seen or value in cuts or value not in self.made_by:
                    continue
                seen.add(value)
                if self.kind[value] in self.per_sample and not through.get(value, False):
                    found.add(value)
                else:
                    stack.extend(self.made_by[value].operands)
            return found

        updated = [
            state
            for state in parts.states.values()
            # A weight without a gradient is replaced by the forward, or by the update of another weight.
            if state.new != state.value and (state.role != "weight" or state.name in parts.gradients)
        ]
        if not sums_of(*(state.new for state in updated)):
            updated = []  # as in most programs; one by one takes a while
        for state in updated:
            for value in sorted(sums_of(state.new)):
                names.setdefault(value, f"{SUM}{state.name}.{len(names)}")
                parts.tallied.add(state.name)
                if state.role == "state" and not state.owner:
                    state.owner = names[value]
        for name, value in parts.outputs.items():
            if self._is_of_the_update(value):
                parts.reports.add(name)
                for part in sorted(sums_of(value)):
                    names.setdefault(part, f"{SUM}{name}.{len(names)}")
        parts.sums = {name: value for value, name in names.items()}

    def _is_of_the_update(self, value: int) -> bool:
        """Whether an output is made of whole sums or of the state's new values, so that MemoryX makes it."""
        kind, whole = self.kind[value], self.parts.kinds.whole
        if kind is Kind.SHARED:
            return value not in self.parts.batch.tags
        if self._of_gradients.get(value, False):
            return True
        if kind in self.per_sample:
            # Systems report numbers and hand out samples; a tensor of sums is added up by MemoryX.
            return kind is Kind.PARTIAL and self.function.values[value].count != 1 and not whole
        if not whole:
            return True
        made_of = self._ancestors([value])
        tallied = {self.parts.states[name].value for name in self.parts.tallied}
        return bool(tallied & made_of) or not made_of.isdisjoint(self.parts.gradients.values())

    def _find_owners(self) -> None:
        """State without a gradient of its own (a mask that is drawn anew) belongs to the weight whose update reads it."""
        parts = self.parts
        readers: dict[int, str] = {}
        for name in parts.gradients:
            state = parts.states[name]
            for value in self._ancestors([state.new], within_update=True):
                readers.setdefault(value, name)
        for state in parts.states.values():
            if state.owner or state.name in parts.gradients or state.role == "global":
                continue
            state.owner = readers.get(state.value, "")
            if state.role == "state" and not state.owner:
                state.role = "weight"

    def _find_buffers(self) -> None:
        """State that the forward itself replaces (batch statistics). Refuses what neither forward nor update can keep."""
        parts = self.parts
        for state in parts.states.values():
            if (
                state.role != "weight"
                or state.owner
                or state.name in parts.gradients
                or state.new == state.value
            ):
                continue
            if self._ancestors([state.new]) & set(parts.gradients.values()):
                raise CirhError(
                    f"{self._where(state.new)}: {state.name} changes with the gradients of several weights and belongs to "
                    "none; such a state is not kept here"
                )
            state.role = "buffer"

    def _where(self, value: int) -> str:
        return self.function.where(self.made_by[value]) if value in self.made_by else self.function.text_name


def _name(parts: Parts) -> None:
    """What plans and checkpoints call each state: weights and globals by the client's name, state under its weight."""
    used: set[str] = set()
    for state in parts.states.values():
        state.tensor = state.name
        if state.role == "state":
            state.tensor = f"{state.owner}/{state.name.rpartition('.')[2]}"
            if state.tensor in used:
                state.tensor = f"{state.owner}/{state.name}"
            used.add(state.tensor)
