"""Constants: from the text of a dense attribute to numbers."""

from __future__ import annotations

import re
import struct
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from openwafer.base import CirhError
from openwafer.compat.cirh._function import ELEMENT_BYTES, Dense

_NUMBER = re.compile(r"true|false|-?0x[0-9A-Fa-f]+|-?[0-9][0-9.eE+-]*")
_SHAPE = re.compile(r"^[\[\]\s,\w.+-]*$")

DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "i1": torch.bool,
}
"""Element types -> the dtype of the same values in torch."""


@lru_cache(maxsize=4096)
def decode(dense: Dense) -> Tensor:
    """The values: a tensor of the constant's shape, or of shape () where one value fills it.

    Raises CirhError if the text is no constant of its type.
    """
    element = dense.type.element
    if element not in DTYPES:
        raise CirhError(f"a constant of element type {element} is not read here")
    body = dense.body.strip()
    if body.startswith('"'):
        return _from_bytes(dense, body)
    if not _SHAPE.match(body):
        raise CirhError(f"dense<{body[:40]}> is no list of numbers")
    words = _NUMBER.findall(body)
    try:
        values = [_number(word, element) for word in words]
    except (ValueError, struct.error):
        raise CirhError(f"dense<{body[:40]}> holds what is no {element}") from None
    if len(values) == 1 and not body.startswith("["):
        return torch.tensor(values[0], dtype=DTYPES[element])
    if len(values) != dense.type.count:
        raise CirhError(f"dense<{body[:40]}> has {len(values)} values for {dense.type}")
    return torch.tensor(values, dtype=DTYPES[element]).reshape(dense.type.shape)


def integers(dense: Dense) -> list[int]:
    """The values of a constant of integers, flat; one value that fills it is repeated."""
    found = decode(dense)
    return [int(value) for value in found.expand(dense.type.shape).reshape(-1).tolist()]


def _number(word: str, element: str) -> float | int | bool:
    if element == "i1":
        return {"true": True, "false": False}[word] if word in ("true", "false") else bool(int(word, 0))
    if element.startswith("i"):
        return int(word, 0)
    if "0x" not in word:
        return float(word)
    bits = int(word, 0)
    if element == "f16":
        return float(struct.unpack("<e", struct.pack("<H", bits))[0])
    if element == "bf16":
        return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])
    if element == "f64":
        return float(struct.unpack("<d", struct.pack("<Q", bits))[0])
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def _from_bytes(dense: Dense, body: str) -> Tensor:
    """`"0x..."`: the values' bytes, little end first; a boolean is a bit, unless it is the only one."""
    element, count = dense.type.element, dense.type.count
    try:
        data = bytes.fromhex(body.strip('"').removeprefix("0x"))
    except ValueError:
        raise CirhError(f"dense<{body[:40]}> holds what is no hexadecimal number") from None
    if element == "i1":
        if len(data) == 1 and count != 1 and data[0] in (0, 0xFF):
            return torch.tensor(data[0] != 0)
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        if len(bits) < count:
            raise CirhError(f"a constant of {dense.type} has only {len(data)} bytes")
        return torch.from_numpy(bits[:count].astype(np.bool_)).reshape(dense.type.shape)
    size = ELEMENT_BYTES[element]
    if len(data) not in (size, size * count):
        raise CirhError(f"a constant of {dense.type} has {len(data)} bytes, not {size * count}")
    values = torch.frombuffer(bytearray(data), dtype=DTYPES[element])
    return (
        values.reshape(())
        if len(data) == size and dense.type.shape != (1,)
        else values.reshape(dense.type.shape)
    )
