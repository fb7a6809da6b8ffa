"""The safetensors container: 8 bytes of header length, a JSON header, then the tensors' bytes without holes.

Source: the safetensors format description. Readers demand that the entries cover the data exactly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from openwafer.artifact import DTYPE_BYTES, Record, TensorType
from openwafer.base import MIB, PAGE_BYTES, CheckpointError, InputError, round_up
from openwafer.cluster.store._files import drop_cached, opened, read_fully, storage_errors, wrong_size

CODES = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "bool": "BOOL",
    "complex64": "C64",
}
_DTYPES = {code: dtype for dtype, code in CODES.items()}
_MAX_HEADER_BYTES = 100 * MIB  # the limit of the format's own reader

STATUS_BYTES = 8
STEP_DIGITS = 20
_OPENING = '{"__metadata__":{"status":"'
_BETWEEN = '","step":"'
STATUS_AT = 8 + len(_OPENING)
STEP_AT = STATUS_AT + STATUS_BYTES + len(_BETWEEN)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file; `start` and `stop` are bytes from the start of the data."""

    name: str
    type: TensorType
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says that it holds. `data_at` is where the data starts, `size` what the file must have."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_at: int
    size: int


def encode_header(entries: Iterable[Entry], metadata: Mapping[str, str], align: int) -> bytes:
    """The header of a file whose data starts at a multiple of `align`; `entries` in order of their bytes.

    Raises InputError if a name is used twice or is one that the format keeps for itself.
    """
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    for entry in entries:
        if entry.name in table:
            raise InputError(
                f"the name {entry.name!r} cannot be used twice in one file; rename the parameter"
            )
        table[entry.name] = {
            "dtype": CODES[entry.type.dtype],
            "shape": list(entry.type.shape),
            "data_offsets": [entry.start, entry.stop],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    length = round_up(8 + len(text), align) - 8
    return length.to_bytes(8, "little") + text.ljust(length)


# --- a store's record file -----------------------------------------------------------------------------


def record_entries(record: Record) -> list[Entry]:
    """The record's tensors at the record's own offsets, with `_pad.n` entries for the holes between them."""
    entries, end = [], 0
    tensors = [
        Entry(tensor.name, tensor.type, base + tensor.offset, base + tensor.offset + tensor.nbytes)
        for base, region in ((0, record.weights), (record.weight_bytes, record.state))
        for tensor in region
    ]
    taken = {entry.name for entry in tensors}
    pads = (name for name in (f"_pad.{n}" for n in count()) if name not in taken)
    for entry in sorted(tensors, key=lambda entry: (entry.start, entry.stop)):
        if entry.start > end:
            entries.append(_pad(next(pads), end, entry.start))
        entries.append(entry)
        end = entry.stop
    if end < record.nbytes:
        entries.append(_pad(next(pads), end, record.nbytes))
    return entries


def _pad(name: str, start: int, stop: int) -> Entry:
    return Entry(name, TensorType("uint8", (stop - start,)), start, stop)


def record_header(record: Record, status: str, step: int) -> bytes:
    """The header of a record's file: whole pages, with status and step at fixed places in the first one."""
    metadata = {"status": status, "step": f"{step:0{STEP_DIGITS}d}", "record": record.name}
    header = encode_header(record_entries(record), metadata, PAGE_BYTES)
    assert header[8:STATUS_AT].decode() == _OPENING
    assert len(status) == STATUS_BYTES
    return header


def stamp(page: memoryview, status: str, step: int) -> None:
    """Rewrite status and step in a header's first page."""
    page[STATUS_AT : STATUS_AT + STATUS_BYTES] = status.encode()
    page[STEP_AT : STEP_AT + STEP_DIGITS] = f"{step:0{STEP_DIGITS}d}".encode()


def read_stamp(header: bytes) -> tuple[str, int]:
    """Status and step of a record's header; ("unreadable", -1) if they are not there."""
    status = header[STATUS_AT : STATUS_AT + STATUS_BYTES].decode(errors="replace")
    step = header[STEP_AT : STEP_AT + STEP_DIGITS]
    return (status, int(step)) if step.isdigit() else ("unreadable", -1)


# --- any file ------------------------------------------------------------------------------------------


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises CheckpointError if the file is missing, ends early, or is not in the format.
    """
    with storage_errors(path), opened(path, os.O_RDONLY) as fd:
        size = os.fstat(fd).st_size
        prefix = memoryview(bytearray(8))
        if read_fully(fd, prefix, 0) < 8:
            raise wrong_size(path, 8, size)
        length = int.from_bytes(prefix, "little")
        if length > _MAX_HEADER_BYTES:
            raise _damaged(path, f"a header of {length} bytes is longer than the format allows")
        text = memoryview(bytearray(length))
        if read_fully(fd, text, 8) < length:
            raise wrong_size(path, 8 + length, size)
    try:
        table: Any = json.loads(bytes(text))
        metadata = {str(key): str(value) for key, value in table.pop("__metadata__", {}).items()}
        entries = {name: _entry(name, value) for name, value in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from None
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.stop)):
        if entry.start != end or entry.stop - entry.start != entry.type.nbytes:
            raise _damaged(path, f"tensor {entry.name!r} lies at bytes {entry.start} to {entry.stop}")
        end = entry.stop
    if size != 8 + length + end:
        raise wrong_size(path, 8 + length + end, size)
    return Header(entries, metadata, 8 + length, size)


def read_entry(path: Path, header: Header, entry: Entry, into: memoryview, offset: int = 0) -> None:
    """Fill `into` with one tensor's bytes from `offset` on.

    Raises CheckpointError if the file has become shorter than its header says.
    """
    with storage_errors(path), opened(path, os.O_RDONLY) as fd:
        start = header.data_at + entry.start + offset
        if read_fully(fd, into, start) != len(into):
            raise wrong_size(path, header.size, os.fstat(fd).st_size)
        drop_cached(fd, start, len(into))


def _entry(name: str, value: Any) -> Entry:
    code, (start, stop) = value["dtype"], value["data_offsets"]
    if code not in _DTYPES:
        raise ValueError(f"tensor {name!r} has dtype {code}, which is none of {', '.join(_DTYPES)}")
    return Entry(name, TensorType(_DTYPES[code], tuple(map(int, value["shape"]))), int(start), int(stop))


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no readable safetensors file: {why}; copy it again or use an older one"
    )


assert set(CODES) == set(DTYPE_BYTES), "a dtype of records has no code in the file format"
