"""Arguments of a launch: host values to the 32-bit words that the exported function takes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from openwafer.artifact._image import Export
from openwafer.artifact._pe_abi import ARGUMENT_WORDS
from openwafer.base import InputError

_INTEGERS = {f"{sign}{bits}": (sign == "i", bits) for sign in ("i", "u") for bits in (8, 16, 32, 64)}
_NUMPY = {
    "f16": "float16",
    "f32": "float32",
    "bool": "bool",
    **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


def argument_words(export: Export, arguments: Sequence[Any]) -> list[int]:
    """The words of `arguments`, each value in words of its own, after checking their types.

    An integer or bool fits a parameter that can hold its value, a float one that is a float.
    Raises InputError with the function's signature if the number or a type is wrong.
    """
    signature = f"{export.name}({', '.join(export.parameters)})"
    if len(arguments) != len(export.parameters):
        raise InputError(
            f"launch of {signature}: it takes {len(export.parameters)} arguments, not {len(arguments)}"
        )
    words: list[int] = []
    for place, (value, kind) in enumerate(zip(arguments, export.parameters, strict=True)):
        words += _words_of(value, kind, f"launch of {signature}: argument {place}")
    _check_length(words, signature)
    return words


def raw_words(export: Export, values: Sequence[Any]) -> list[int]:
    """The words of the untyped `call`: the bits of each value, one word each."""
    words = [_bits_of(value, f"call of {export.name}: value {place}") for place, value in enumerate(values)]
    if len(words) != len(export.parameters):
        raise InputError(
            f"call of {export.name}({', '.join(export.parameters)}): it takes {len(export.parameters)} values, "
            f"not {len(words)}"
        )
    _check_length(words, export.name)
    return words


def _check_length(words: list[int], name: str) -> None:
    if len(words) > ARGUMENT_WORDS:
        raise InputError(
            f"{name} takes {len(words)} words of arguments, and at most {ARGUMENT_WORDS} can be sent"
        )


def _words_of(value: Any, kind: str, what: str) -> list[int]:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    whole = isinstance(value, (int, bool, np.integer, np.bool_))
    if kind == "bool" and whole and int(value) in (0, 1):
        return [int(value)]
    if kind in _INTEGERS and whole:
        signed, bits = _INTEGERS[kind]
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if not low <= int(value) <= high:
            raise InputError(f"{what} is {value}, and {kind} holds {low} to {high}")
        raw = int(value) & ((1 << bits) - 1)
        return [raw] if bits <= 32 else [raw & 0xFFFFFFFF, raw >> 32]
    if kind in ("f16", "f32", "bf16", "cb16") and isinstance(value, (float, np.floating)):
        return [_float_bits(float(value), kind, what)]
    hint = f"; write np.{_NUMPY[kind]}({value!s})" if kind in _NUMPY and np.isscalar(value) else ""
    raise InputError(f"{what} has type {type(value).__name__}, and the function takes {kind}{hint}")


def _float_bits(value: float, kind: str, what: str) -> int:
    if kind == "f32":
        return int(np.float32(value).view(np.uint32))
    if kind == "f16":
        return int(np.float16(value).view(np.uint16))
    if kind == "bf16":
        bits: int = struct.unpack("<I", struct.pack("<f", np.float32(value)))[0]
        return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF
    raise InputError(f"{what}: {kind} values cannot be passed yet; pass the bits as u16 and use @bitcast")


def _bits_of(value: Any, what: str) -> int:
    if isinstance(value, (np.floating, np.integer)) and value.itemsize in (2, 4):
        return int(value.view(np.uint16 if value.itemsize == 2 else np.uint32))
    if isinstance(value, (int, np.integer)) and -(1 << 31) <= int(value) < 1 << 32:
        return int(value) & 0xFFFFFFFF
    if isinstance(value, float):
        return int(np.float32(value).view(np.uint32))
    raise InputError(f"{what} is {value!r}, and one 32-bit word is sent for each value")
