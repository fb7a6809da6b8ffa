"""What MemoryX shards hand each other: whole records, for checkpoints; small values, for the update across records."""

from __future__ import annotations

import torch

from openwafer.artifact import EXCHANGE_BYTES, TensorType
from openwafer.cluster._job import memoryx
from openwafer.cluster._memory import view
from openwafer.wire import Endpoints, RingReader, RingWriter

Values = dict[str, torch.Tensor]
_Packed = list[tuple[str, str, tuple[int, ...], bytes]]
"""Name, dtype, shape and bytes of each value."""


def send_record(writer: RingWriter, index: int, step: int, data: memoryview, timeout_s: float) -> None:
    """Send a whole record, in pieces that fit the ring's slots. Raises as RingWriter.acquire."""
    for start in range(0, len(data), EXCHANGE_BYTES):
        piece = data[start : start + EXCHANGE_BYTES]
        writer.acquire(timeout_s)[: len(piece)] = piece
        writer.commit([index, step, start], len(piece))


def receive_record(
    reader: RingReader, index: int, into: memoryview, timeout_s: float
) -> tuple[int, memoryview]:
    """Fill `into`, which has a record's size, with the record that comes next; returns its step, and `into`.

    Raises as RingReader.receive.
    """
    step = 0
    for start in range(0, len(into), EXCHANGE_BYTES):
        message = reader.receive(timeout_s)
        found, step, at = message.token
        assert (found, at) == (index, start), message.token
        into[start : start + len(message.data)] = message.data
        reader.release(message.ticket)
    return step, into


def share_values(own: Values, ends: Endpoints, shard: int, shards: int, timeout_s: float) -> Values:
    """Give every other shard what this one computed, and get what they did. Raises as Outbox.send and Inbox.receive."""
    packed: _Packed = [
        (
            name,
            str(value.dtype).removeprefix("torch."),
            tuple(value.shape),
            value.contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, value in own.items()
    ]
    received: _Packed = []
    for other in range(shards):
        # Of each pair the first speaks first, so that no two wait for each other with full pipes.
        if shard < other:
            ends.outbox("across", memoryx(other)).send(packed, timeout_s)
        if shard != other:
            received += ends.inbox("across", memoryx(other)).receive(timeout_s, type=_Packed)
        if shard > other:
            ends.outbox("across", memoryx(other)).send(packed, timeout_s)
    return {
        name: view(memoryview(bytearray(data)), TensorType(dtype, shape), 0)
        for name, dtype, shape, data in received
    }
