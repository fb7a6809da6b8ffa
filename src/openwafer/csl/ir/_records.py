"""Records of the PE ABI as bytes: descriptors, and the fixed part of vector operations."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from openwafer.artifact import _pe_abi as abi
from openwafer.csl.ir import _ir as ir

_CODES = {"u8": "B", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "ptr": "Q"}

OPERATION_NUMBER = {name: number for number, name in enumerate(abi.VECTOR_OPERATIONS)}


def offsets(fields: tuple[tuple[str, str], ...]) -> dict[str, int]:
    """Where each field of a record of the ABI lies, by the rules of C on 64-bit hosts."""
    found, at = {}, 0
    for name, kind in fields:
        element, _, count = kind.removesuffix("]").partition("[")
        size = struct.calcsize(_CODES[element])
        at = -(-at // size) * size
        found[name] = at
        at += size * int(count or 1)
    return found


def _layout(fields: tuple[tuple[str, str], ...]) -> struct.Struct:
    text = "<"
    for _, kind in fields:
        element, _, count = kind.removesuffix("]").partition("[")
        text += f"{count}{_CODES[element]}"
    return struct.Struct(text)


VIEW = offsets(abi.PE_VIEW)
FIELD = offsets(abi.DESCRIPTOR)
_DESCRIPTOR = _layout(abi.DESCRIPTOR)
_VECTOR = _layout(abi.VECTOR)


def pack_descriptor(descriptor: ir.Descriptor, addresses: Mapping[str, int], extra_flags: int = 0) -> bytes:
    """The 32 bytes of a descriptor; `addresses` gives those of symbols."""
    base = descriptor.base
    if isinstance(base, ir.Address):
        base = addresses[base.symbol] + base.offset
    return _DESCRIPTOR.pack(
        abi.DescriptorKind[descriptor.kind.upper()],
        descriptor.flags | extra_flags,
        descriptor.color,
        descriptor.queue,
        base & 0xFFFF,
        descriptor.length,
        descriptor.stride,
        descriptor.index,
        descriptor.priority,
        descriptor.simd,
        descriptor.control_transform,
        descriptor.zero,
        *descriptor.extents,
        *descriptor.strides,
    )


def unpack_descriptor(data: bytes) -> ir.Descriptor:
    """The descriptor that `pack_descriptor` packed, with its base as a number."""
    kind, flags, color, queue, base, length, stride, index, priority, simd, transform, zero, *rest = (
        _DESCRIPTOR.unpack(data)
    )
    return ir.Descriptor(
        kind=abi.DescriptorKind(kind).name.lower(),  # type: ignore[arg-type]
        base=base,
        length=length,
        stride=stride,
        color=color,
        queue=queue,
        flags=flags,
        index=index,
        priority=priority,
        simd=simd,
        control_transform=transform,
        zero=zero,
        extents=(rest[0], rest[1], rest[2], rest[3]),
        strides=(rest[4], rest[5], rest[6], rest[7]),
    )


def dsr_flags(load: ir.LoadDsr) -> int:
    """The flags that loading a DSR adds to its descriptor."""
    return (
        abi.DescriptorFlag.SAVE_ADDRESS * load.save_address
        | abi.DescriptorFlag.SINGLE_STEP * load.single_step
        | abi.DescriptorFlag.ASYNCHRONOUS * load.settings.asynchronous
    )


def pack_vector(operation: str | None, count: int, settings: ir.Settings, location: int) -> bytes:
    """The 20 bytes of a vector operation with `count` operands, or of loading a DSR (`operation` None)."""
    end = _action(settings.end)
    control = _action(settings.control)
    unblock = settings.unblock
    return _VECTOR.pack(
        0 if operation is None else OPERATION_NUMBER[operation],
        count,
        settings.asynchronous,
        0xFF if settings.thread is None else settings.thread,
        settings.priority,
        *end,
        *control,
        unblock is not None,
        abi.Target[unblock[0].upper()] if unblock else 0,
        unblock[1] if unblock else 0,
        0,
        location,
    )


def _action(action: tuple[str, str, int] | None) -> tuple[int, int, int]:
    if action is None:
        return (0, 0, 0)
    name, target, number = action
    return (abi.Action[name.upper()], abi.Target[target.upper()], number)


def register_kind(register: ir.Register) -> int:
    """The OperandKind of a DSR."""
    return int(abi.OperandKind[f"DSR_{register.file.upper()}"])


def map_types(begin: ir.MapBegin) -> bytes:
    """The second argument of ow_map_begin: a byte for each operand, then MAP_END."""
    marks = [
        abi.MAP_TYPES.index(kind) | (abi.MAP_WRITE if mode == "write" else 0)
        for kind, mode in zip(begin.types, begin.modes, strict=True)
    ]
    return bytes([*marks, abi.MAP_END])
