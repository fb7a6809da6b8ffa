"""When a system may drop a value: shared by whoever executes a schedule and whoever predicts its memory."""

from __future__ import annotations

from collections.abc import Mapping

from openwafer.artifact._plan import Action, Backward, Call, Forward, Layer, ReceiveValues, SendValues


def call_of(action: Action, layers: tuple[Layer, ...]) -> Call | None:
    """The body that an action runs, if it runs one."""
    if isinstance(action, Forward):
        return layers[action.layer].forward
    if isinstance(action, Backward):
        return layers[action.layer].backward
    return None


def drops(
    program: tuple[Action, ...], rows: tuple[int, ...], layers: Mapping[int, tuple[Layer, ...]]
) -> tuple[tuple[str, ...], ...]:
    """For each action the names whose last use, in its microbatch, it is.

    Names that nothing uses after the action that made them count as used by that action. Loss, metrics and gradients
    are taken by the executor as they appear, so they need no later use.
    """
    last: dict[tuple[int, str], int] = {}
    for position, action in enumerate(program):
        if isinstance(action, (Forward, Backward)):
            own = layers[rows[action.microbatch]]
            call = call_of(action, own)
            names = (
                []
                if call is None
                else [*call.outputs, *(name for name in call.inputs if isinstance(name, str))]
            )
            if isinstance(action, Backward):
                names.extend(gradient.value for gradient in own[action.layer].gradients)
        elif isinstance(action, (SendValues, ReceiveValues)):
            names = list(action.values)
        else:
            continue
        for name in names:
            last[action.microbatch, name] = position
    out: list[list[str]] = [[] for _ in program]
    for (_, name), position in last.items():
        out[position].append(name)
    return tuple(map(tuple, out))
