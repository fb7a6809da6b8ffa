"""When a system drops a value: never before its last use, and never later."""

from __future__ import annotations

from body_strategies import schedules
from hypothesis import given, settings

from openwafer.artifact import Backward, Forward, ReceiveValues, SendValues, call_of, drops


def used_by(action, rows, layers) -> set[str]:
    """The names that an action reads or makes, written down here on its own."""
    if isinstance(action, (SendValues, ReceiveValues)):
        return set(action.values)
    if not isinstance(action, (Forward, Backward)):
        return set()
    own = layers[rows[action.microbatch]]
    call = call_of(action, own)
    names = {name for name in (*call.inputs, *call.outputs) if isinstance(name, str)}
    if isinstance(action, Backward):
        names |= {gradient.value for gradient in own[action.layer].gradients}
    return names


@settings(max_examples=300, deadline=None)
@given(schedule=schedules())
def test_no_value_is_used_after_its_drop_and_none_outlives_its_last_use(schedule):
    """For every microbatch and name there is one drop, at the last action that touches it."""
    program, rows, layers = schedule
    found = drops(program, rows, layers)

    assert len(found) == len(program)
    last: dict[tuple[int, str], int] = {}
    for position, action in enumerate(program):
        for name in used_by(action, rows, layers):
            last[action.microbatch, name] = position
    dropped = [
        (getattr(program[position], "microbatch", None), name, position)
        for position, names in enumerate(found)
        for name in names
    ]
    assert sorted(dropped) == sorted(
        (microbatch, name, position) for (microbatch, name), position in last.items()
    )


@settings(max_examples=100, deadline=None)
@given(schedule=schedules())
def test_microbatches_do_not_touch_each_others_values(schedule):
    """Dropping a name of one microbatch leaves the same name of another alone."""
    program, rows, layers = schedule
    found = drops(program, rows, layers)

    for microbatch in range(len(rows)):
        alone = tuple(action for action in program if getattr(action, "microbatch", -1) == microbatch)
        expected = drops(alone, rows, layers)
        kept = [
            names
            for action, names in zip(program, found, strict=True)
            if getattr(action, "microbatch", -1) == microbatch
        ]
        assert [set(names) for names in kept] == [set(names) for names in expected]
