"""States that count steps, found in the graph: by them random numbers can go on in another job.

n + 1                                every step
select(finite, n + 1, n)             every step that is not skipped ...
m + (1 - cast(finite))               ... and every one that is
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from openwafer.compat.cirh._dense import decode
from openwafer.compat.cirh._function import Dense, Function, Op


class StateLike(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...
    @property
    def new(self) -> int: ...


def find_counters(function: Function, states: Sequence[StateLike]) -> tuple[str, ...]:
    """Names of states whose sum counts the steps: one of the first kind, else one of the second with one of the third if there
    is one; () if no state counts. states: single numbers."""
    look = _Look(function)
    integers = [state for state in states if function.values[state.value].element.startswith("i")]
    for state in integers:
        if look.is_one_more(state.new, state.value):
            return (state.name,)
    for state in integers:
        flag = look.flag_of(state)
        if flag is not None:
            skipped = (other.name for other in integers if look.counts_others(other, flag))
            return (state.name, *list(skipped)[:1])
    return ()


class _Look:
    def __init__(self, function: Function) -> None:
        self._made_by = {value: op for op in function.ops for value in op.results}
        self._ones = {op.results[0] for op in function.ops if op.name == "Const" and _is_one(op)}

    def is_one_more(self, value: int, than: int) -> bool:
        op = self._made(value, "Add")
        return op is not None and than in op.operands and not self._ones.isdisjoint(op.operands)

    def flag_of(self, state: StateLike) -> int | None:
        """What decides whether a step counts, if it does so."""
        op = self._made(state.new, "Select")
        if op is None or op.operands[2] != state.value or not self.is_one_more(op.operands[1], state.value):
            return None
        return op.operands[0]

    def counts_others(self, state: StateLike, flag: int) -> bool:
        """Whether a state counts the steps for which `flag` is not set."""
        op = self._made(state.new, "Add")
        if op is None or state.value not in op.operands:
            return False
        (other,) = [value for value in op.operands if value != state.value] or (state.value,)
        missed = self._made(other, "Sub")
        if missed is None or missed.operands[0] not in self._ones:
            return False
        cast = self._made(missed.operands[1], "Cast")
        return cast is not None and cast.operands[0] == flag

    def _made(self, value: int, name: str) -> Op | None:
        op = self._made_by.get(value)
        return op if op is not None and op.name == name else None


def _is_one(op: Op) -> bool:
    dense = op.attributes.get("value")
    return isinstance(dense, Dense) and bool((decode(dense) == 1).all())
