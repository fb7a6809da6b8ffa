"""Programs: what each system does in one step, in order."""

from __future__ import annotations

from collections.abc import Sequence

from openwafer.artifact import (
    Action,
    Backward,
    Call,
    Forward,
    Layer,
    Load,
    ReceiveValues,
    SendGradients,
    SendValues,
    Unload,
)


def weight_streaming(layers: Sequence[Layer], microbatches: int, train: bool) -> tuple[Action, ...]:
    """All microbatches of a layer before the next layer ("vertical"): each weight comes twice a step, whatever the batch.

    The last layer of the forward is the first of the backward and stays.
    """
    last = len(layers) - 1
    out: list[Action] = []
    for index in range(len(layers)):
        out.append(Load(index))
        out.extend(Forward(index, microbatch) for microbatch in range(microbatches))
        if index < last or not train:
            out.append(Unload(index))
    for index in reversed(range(len(layers))) if train else ():
        layer = layers[index]
        if not _has_backward(layer):
            if index == last:
                out.append(Unload(index))
            continue
        if index < last:
            out.append(Load(index))
        out.extend(Backward(index, microbatch) for microbatch in range(microbatches))
        if layer.gradients:
            out.append(SendGradients(index))
        out.append(Unload(index))
    return tuple(out)


def pipelined(
    by_microbatch: Sequence[Sequence[Layer]], stages: Sequence[range], stage: int, train: bool
) -> tuple[Action, ...]:
    """One stage of a pipeline: its layers stay loaded, microbatches flow through, a forward and a backward in turn.

    by_microbatch: the layers for each microbatch; their sizes may differ.
    Idle share of a step: (S-1)/(M+S-1) for S stages of equal time and M microbatches (Huang et al., GPipe, 2019;
    one-forward-one-backward keeps it and bounds kept activations by S, Narayanan et al., PipeDream-Flush, 2021).
    """
    own = stages[stage]
    microbatches = len(by_microbatch)
    layers = by_microbatch[0]
    forward_traffic = [_traffic(entry, stages, stage, backward=False) for entry in by_microbatch]
    backward_traffic = [_traffic(entry, stages, stage, backward=True) for entry in by_microbatch]
    out: list[Action] = []
    loaded: set[int] = set()

    def load(index: int) -> None:
        if index not in loaded:
            loaded.add(index)
            out.append(Load(index))

    def forward(microbatch: int) -> None:
        out.extend(ReceiveValues(peer, microbatch, names) for peer, names in forward_traffic[microbatch][0])
        for index in own:
            load(index)
            out.append(Forward(index, microbatch))
        out.extend(SendValues(peer, microbatch, names) for peer, names in forward_traffic[microbatch][1])

    def backward(microbatch: int) -> None:
        out.extend(ReceiveValues(peer, microbatch, names) for peer, names in backward_traffic[microbatch][0])
        for index in reversed(own):
            if _has_backward(layers[index]):
                out.append(Backward(index, microbatch))
            if microbatch == microbatches - 1:
                if layers[index].gradients:
                    out.append(SendGradients(index))
                out.append(Unload(index))
        out.extend(SendValues(peer, microbatch, names) for peer, names in backward_traffic[microbatch][1])

    warm_up = min(len(stages) - stage - 1, microbatches) if train else microbatches
    for microbatch in range(warm_up):
        forward(microbatch)
    if not train:
        out.extend(Unload(index) for index in own)
        return tuple(out)
    for microbatch in range(warm_up, microbatches):
        forward(microbatch)
        backward(microbatch - warm_up)
    for microbatch in range(microbatches - warm_up, microbatches):
        backward(microbatch)
    return tuple(out)


def bubble(stages: int, microbatches: int) -> float:
    """Share of a pipelined step that a system idles, for stages of equal time."""
    return (stages - 1) / (microbatches + stages - 1)


def _has_backward(layer: Layer) -> bool:
    """A layer below the first trained weight has nothing to compute, and none to pass on."""
    return layer.backward is not None and bool(layer.backward.outputs or layer.gradients)


Traffic = list[tuple[int, tuple[str, ...]]]


def _traffic(
    layers: Sequence[Layer], stages: Sequence[range], stage: int, backward: bool
) -> tuple[Traffic, Traffic]:
    """(received, sent) by peer stage: values that one stage makes and another reads, in the forward or in the backward.

    What a backward reads of an earlier stage's forward comes along in the forward. What it reads of a later stage's comes
    in the backward: in the forward both stages would wait for each other.
    """
    stage_of = {index: position for position, members in enumerate(stages) for index in members}
    made_forward = _makers([layer.forward for layer in layers], stage_of)
    made_backward = _makers([layer.backward for layer in layers], stage_of)
    received: dict[int, dict[str, None]] = {}
    sent: dict[int, dict[str, None]] = {}
    for index, layer in enumerate(layers):
        reader = stage_of[index]
        kept = [(name, made_forward.get(name, reader)) for name in _read(layer.backward)]
        if backward:
            values = [*_read(layer.backward), *(gradient.value for gradient in layer.gradients)]
            moved = [(name, made_backward.get(name, reader)) for name in values]
            moved += [(name, maker) for name, maker in kept if maker > reader]
        else:
            moved = [(name, made_forward.get(name, reader)) for name in _read(layer.forward)]
            moved += [(name, maker) for name, maker in kept if maker < reader]
        for name, maker in moved:
            if maker != reader:
                if reader == stage:
                    received.setdefault(maker, {})[name] = None
                if maker == stage:
                    sent.setdefault(reader, {})[name] = None
    return (
        [(peer, tuple(names)) for peer, names in sorted(received.items())],
        [(peer, tuple(names)) for peer, names in sorted(sent.items())],
    )


def _makers(calls: Sequence[Call | None], stage_of: dict[int, int]) -> dict[str, int]:
    """The stage that makes each value."""
    return {name: stage_of[index] for index, call in enumerate(calls) if call for name in call.outputs}


def _read(call: Call | None) -> list[str]:
    return [name for name in call.inputs if isinstance(name, str)] if call else []
