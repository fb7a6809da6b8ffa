"""How PE-IR's types and names look in LLVM."""

from __future__ import annotations

from openwafer.csl.ir import BYTES, Type

LLVM: dict[Type, str] = {
    "void": "void", "bool": "i1", "i8": "i8", "u8": "i8", "i16": "i16", "u16": "i16", "i32": "i32", "u32": "i32",
    "i64": "i64", "u64": "i64", "f16": "i16", "bf16": "i16", "cb16": "i16", "f32": "float", "ptr": "i16",
    "dsd": "[4 x i64]",
}  # fmt: skip
"""Values. 16-bit floats are bits, since processors lack them or differ; a dsd is its 32 bytes as words."""

HALF_FORMAT: dict[Type, int] = {"f16": 0, "bf16": 1, "cb16": 2}
"""HalfFormat of the PE ABI."""


def integer(kind: Type) -> str:
    """The LLVM integer that holds a value's bits in memory."""
    return f"i{8 * BYTES[kind]}"


def quoted(name: str) -> str:
    """A name of PE-IR as a name of LLVM, whatever it consists of."""
    text = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in (0x22, 0x5C) else f"\\{byte:02X}"
        for byte in name.encode()
    )
    return f'"{text}"'


def function_name(name: str) -> str:
    """The LLVM function of a function of PE-IR; the prefix keeps it apart from helpers and the runtime."""
    return "@" + quoted("f." + name)


def local_name(name: str) -> str:
    """The LLVM value that points to a register local."""
    return "%" + quoted("l." + name)
