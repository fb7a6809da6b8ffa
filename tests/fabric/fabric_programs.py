"""Programs for tests without a compiler: entries are Python generators that call the machine through ctypes.

An entry is `def main(pe): ...`, a generator; `yield from pe.vector(...)` is a vector operation. The machine calls it again
where an operation waited, as it does compiled code.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from openwafer.artifact import _image as image
from openwafer.artifact import _pe_abi as abi
from openwafer.fabric import Machine, _native

_TYPES = {
    "ptr": ctypes.c_void_p,
    "u32": ctypes.c_uint32,
    "i32": ctypes.c_int32,
    "u64": ctypes.c_uint64,
    "f32": ctypes.c_float,
    "void": None,
}
_ADDRESSES = _native.runtime_addresses()
RUNTIME = {
    one.name: ctypes.CFUNCTYPE(
        _TYPES[one.result], ctypes.c_void_p, *(_TYPES[parameter] for parameter in one.parameters)
    )(_ADDRESSES[one.name])
    for one in abi.RUNTIME
}
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
Operand = tuple[int, int, bytes | None]
Action = tuple[abi.Action, abi.Target, int]
NO_ACTION: Action = (abi.Action.NONE, abi.Target.TASK, 0)


class Failed(Exception):  # noqa: N818 - ends an entry, as FAILED does
    """The machine has recorded an error."""


def descriptor(
    kind: abi.DescriptorKind,
    *,
    flags: int = 0,
    color: int = 0xFF,
    queue: int = 0xFF,
    base: int = 0,
    length: int = 0,
    stride: int = 0,
    index: int = 0,
    priority: int = 0,
    simd: int = 0,
    transform: int = 0,
    extents: Sequence[int] = (1, 1, 1, 1),
    strides: Sequence[int] = (0, 0, 0, 0),
) -> bytes:
    """A DESCRIPTOR."""
    return struct.pack(
        "<BBBBHHhHBBBB4H4h",
        kind, flags, color, queue, base, length, stride, index, priority, simd, transform, 0, *extents, *strides,
    )  # fmt: skip


def mem(base: int, length: int, stride: int = 1, **more: Any) -> bytes:
    """A mem1d DSD; stride in elements."""
    return descriptor(abi.DescriptorKind.MEM1D, base=base, length=length, stride=stride, **more)


def fabin(queue: int, length: int, color: int = 0xFF, **more: Any) -> bytes:
    return descriptor(abi.DescriptorKind.FABIN, queue=queue, length=length, color=color, **more)


def fabout(queue: int, length: int, color: int = 0xFF, **more: Any) -> bytes:
    return descriptor(abi.DescriptorKind.FABOUT, queue=queue, length=length, color=color, **more)


def fifo(number: int) -> bytes:
    return descriptor(abi.DescriptorKind.FIFO, queue=number)


def dsd(value: bytes) -> Operand:
    return (abi.OperandKind.DSD, 0, value)


def scalar(bits: int) -> Operand:
    return (abi.OperandKind.SCALAR, bits, None)


def single(value: float) -> Operand:
    return scalar(struct.unpack("<I", struct.pack("<f", value))[0])


def pointer(address: int) -> Operand:
    return (abi.OperandKind.POINTER, address, None)


def dest(number: int) -> Operand:
    return (abi.OperandKind.DSR_DEST, number, None)


def src1(number: int) -> Operand:
    return (abi.OperandKind.DSR_SRC1, number, None)


def vector_record(
    operation: str,
    operands: int,
    *,
    asynchronous: bool = False,
    thread: int = 0xFF,
    end: Action = NO_ACTION,
    control: Action = NO_ACTION,
    location: int = 0,
) -> bytes:
    """A VECTOR."""
    return struct.pack(
        "<H14BI",
        abi.VECTOR_OPERATIONS.index(operation), operands, asynchronous, thread, 0, *end, *control, 0, 0, 0, 0, location,
    )  # fmt: skip


def activate(task: int) -> Action:
    return (abi.Action.ACTIVATE, abi.Target.TASK, task)


def unblock(task: int) -> Action:
    return (abi.Action.UNBLOCK, abi.Target.TASK, task)


class Pe:
    """What an entry sees of its PE."""

    def __init__(self, view: int) -> None:
        self.view = view
        self._kept: list[Any] = []

    def call(self, name: str, *arguments: Any) -> Any:
        return RUNTIME[name](self.view, *arguments)

    @property
    def clock(self) -> int:
        return ctypes.c_uint64.from_address(self.view + 8).value

    def spend(self, cycles: int) -> None:
        """Scalar code of so many cycles."""
        ctypes.c_uint64.from_address(self.view + 8).value += cycles

    def argument(self, number: int) -> int:
        return ctypes.c_uint32.from_address(self.view + 48 + 4 * number).value

    def load(self, address: int) -> int:
        memory = ctypes.c_uint64.from_address(self.view).value
        return ctypes.c_uint32.from_address(memory + address).value

    def store(self, address: int, value: int) -> None:
        memory = ctypes.c_uint64.from_address(self.view).value
        ctypes.c_uint32.from_address(memory + address).value = value & 0xFFFFFFFF

    def task(self, action: Action) -> None:
        self.call("ow_task", *map(int, action))

    def vector(self, operation: str, *operands: Operand, **settings: Any) -> Iterator[None]:
        record = vector_record(operation, len(operands), **settings)
        yield from self.wait(self.call("ow_vector", record, self._operands(operands)))

    def load_dsr(self, file: abi.OperandKind, number: int, value: bytes, **settings: Any) -> None:
        self.call("ow_load_dsr", int(file), number, value, vector_record("mov16", 0, **settings))

    def map_begin(
        self, operands: Sequence[Operand], types: Sequence[str], writes: Sequence[bool]
    ) -> Iterator[None]:
        marks = [
            abi.MAP_TYPES.index(t) | (abi.MAP_WRITE if w else 0) for t, w in zip(types, writes, strict=True)
        ]
        yield from self.wait(
            self.call("ow_map_begin", self._operands(operands), bytes([*marks, abi.MAP_END]), 0)
        )

    def map_next(self) -> Iterator[None]:
        """Whether there is an element is `more` afterwards."""
        self._more = ctypes.c_uint8(0xAA)
        yield from self.wait(self.call("ow_map_next", ctypes.addressof(self._more)))
        self.more = bool(self._more.value)

    def wait(self, status: int) -> Iterator[None]:
        if status == abi.Status.WAITING:
            yield
        elif status == abi.Status.FAILED:
            raise Failed

    def _operands(self, operands: Sequence[Operand]) -> Any:
        packed = b""
        self._kept = []
        for kind, bits, value in operands:
            address = 0
            if value is not None:
                self._kept.append(ctypes.create_string_buffer(value, len(value)))
                address = ctypes.addressof(self._kept[-1])
            packed += struct.pack("<IIQ", kind, bits, address)
        return packed


Entry = Callable[[Pe], Iterator[None] | None]


def _callback(function: Entry) -> Any:
    running: dict[int, Iterator[None]] = {}

    def entry(view: int, _frame: int) -> int:
        try:
            if view not in running:
                started = function(Pe(view))
                if started is None:
                    return int(abi.Status.DONE)
                running[view] = started
            next(running[view])
        except StopIteration:
            del running[view]
            return int(abi.Status.DONE)
        except Failed:
            running.pop(view, None)
            return int(abi.Status.FAILED)
        return int(abi.Status.WAITING)

    return _ENTRY(entry)


class Code:
    """Codes whose entries are Python functions, and the executor that gives their addresses."""

    def __init__(self) -> None:
        self.codes: list[image.Code] = []
        self._callbacks: list[list[Any]] = []

    def add(self, *entries: Entry) -> int:
        self._callbacks.append([_callback(entry) for entry in entries])
        names = tuple(entry.__name__ for entry in entries)
        number = len(self.codes)
        self.codes.append(image.Code(ir=str(number), llvm="", entries=names, frame_bytes=4, blocks=()))
        return number

    def executor(self, code: image.Code) -> list[int]:
        return [ctypes.cast(one, ctypes.c_void_p).value or 0 for one in self._callbacks[int(code.ir)]]


def program(code: int, memory: bytes = b"", *, memory_bytes: int = 4096, **more: Any) -> image.Program:
    return image.Program(
        name="program.csl",
        code=code,
        memory=memory,
        memory_bytes=memory_bytes,
        locations=(("", 0, 0), ("program.csl", 7, 3), ("program.csl", 9, 5)),
        **more,
    )


def main_task(task: int = 8, entry: int = 0, **more: Any) -> image.Task:
    """A local task that runs at the start."""
    return image.Task(kind="local", id=task, entry=entry, active=True, name="main", **more)


def machine(
    code: Code,
    programs: Sequence[image.Program],
    *,
    architecture: image.Architecture = "wse3",
    routes: Sequence[dict[int, image.Route]] = (),
    timing: Any = "sim",
    jitter: int = 0,
    **more: Any,
) -> Machine:
    """A row of PEs, one for each program."""
    tiles = tuple(image.Tile(x, 0, x, routes[x] if x < len(routes) else {}) for x in range(len(programs)))
    made = image.Image(
        architecture=architecture,
        fabric=(len(programs) + 2, 3),
        offset=(1, 1),
        rectangle=(len(programs), 1),
        programs=tuple(programs),
        codes=tuple(code.codes),
        tiles=tiles,
        **more,
    )
    loaded = Machine(made, timing=timing, executor=code.executor, jitter=jitter)
    loaded.test_code = code  # type: ignore[attr-defined]  # callbacks live as long as the machine
    return loaded


EASTWARD = (
    {1: image.Route(rx=("RAMP",), tx=("EAST",))},
    {1: image.Route(rx=("WEST",), tx=("RAMP",))},
)
"""Color 1 from the first PE to the second."""


def array(loaded: Machine, x: int, address: int, count: int, kind: Any = np.float32) -> Any:
    """Elements in the memory of PE (x, 0)."""
    return loaded.read_block(x, 0, 1, 1, address, count, kind)[0, 0]
