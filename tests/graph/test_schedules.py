"""Programs of pipelined stages can be carried out: whatever one waits for, another sends without waiting for it."""

from collections import deque

import pytest

from openwafer.artifact import Action, Call, Layer, ReceiveValues, SendValues
from openwafer.graph.place import pipelined


def _layer(index: int, forward: Call, backward: Call) -> Layer:
    return Layer(
        name=f"layer{index}",
        records=(index,),
        forward=forward,
        backward=backward,
        gradients=(),
        recompute=False,
        forward_flops=1,
        backward_flops=1,
    )


def _layers(late: bool) -> list[Layer]:
    """Three layers in a row; with `late` the first one's backward reads what the last one's forward made."""
    return [
        _layer(0, Call("f", ("x",), ("a",)), Call("b", ("a", "db", *(("c",) if late else ())), ("dx",))),
        _layer(1, Call("f", ("a",), ("b",)), Call("b", ("a", "b", "dc"), ("db",))),
        _layer(2, Call("f", ("b",), ("c",)), Call("b", ("b", "c"), ("dc",))),
    ]


def _run(programs: list[tuple[Action, ...]]) -> list[tuple[int, Action]]:
    """Carry programs out in turn, as far as each gets; returns what was done. Fails if none gets on."""
    position = [0] * len(programs)
    on_the_way: dict[tuple[int, int], deque[tuple[int, tuple[str, ...]]]] = {}
    done = []
    while any(at < len(program) for at, program in zip(position, programs, strict=True)):
        before = list(position)
        for stage, program in enumerate(programs):
            while position[stage] < len(program):
                action = program[position[stage]]
                if isinstance(action, ReceiveValues):
                    queue = on_the_way.get((action.peer, stage))
                    if not queue:
                        break
                    assert queue.popleft() == (action.microbatch, action.values)
                elif isinstance(action, SendValues):
                    queue = on_the_way.setdefault((stage, action.peer), deque())
                    queue.append((action.microbatch, action.values))
                done.append((stage, action))
                position[stage] += 1
        assert position != before, [p[at] for p, at in zip(programs, position, strict=True) if at < len(p)]
    assert not any(on_the_way.values())
    return done


@pytest.mark.parametrize("microbatches", [1, 2, 5])
@pytest.mark.parametrize("late", [False, True])
def test_stages_never_wait_for_one_another_in_a_circle(late, microbatches):
    """Also where an early layer's backward needs a later layer's forward value: that comes with the gradients."""
    stages = [range(0, 1), range(1, 2), range(2, 3)]
    by_microbatch = [_layers(late)] * microbatches

    programs = [pipelined(by_microbatch, stages, stage, train=True) for stage in range(3)]

    done = _run(programs)
    received = [
        name
        for stage, action in done
        if stage == 0 and isinstance(action, ReceiveValues)
        for name in action.values
    ]
    assert sorted(received) == sorted((["c"] if late else []) * microbatches + ["db"] * microbatches)
