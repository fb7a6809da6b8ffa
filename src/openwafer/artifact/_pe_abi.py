"""How compiled PE code and the fabric talk: one layout of memory, one table of functions.

`csl` generates code against it and `fabric` runs that code; `fabric/native/abi.hpp` says the same in C++, and a test holds
the two together. Pointers of a PE are 16-bit byte addresses in its own memory. All numbers are little-endian.

Code is a set of *entries*, one for each task and each exported function: `int32 entry(PeView *pe, uint8 *frame)`. It runs on
the PE's main thread until it returns `DONE`, or `WAITING` where a machine operation has to wait; then `entry` is called again
with the same frame and goes on behind that operation. `FAILED` says that the machine has recorded an error. The frame's
first 4 bytes are 0 as an entry starts, and again when it returns `DONE`. Machine operations copy the records that they are
given, except the byte of `ow_map_next`, which lies in the frame and is written when the operation is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """What an entry, or a machine operation that may wait, returns."""

    DONE = 0
    WAITING = 1
    FAILED = 2


ARGUMENT_WORDS = 32
"""32-bit words of arguments: wavelet data and index of a data task, or arguments of a launch, each in words of its own."""

PE_VIEW = (
    ("memory", "ptr"),  # the PE's memory, `memory_bytes` long
    (
        "clock",
        "u64",
    ),  # the main thread's own time in cycles; code adds the cost of each block as it enters it
    ("costs", "ptr"),  # uint32 cycles of each block of the code, from the timing table
    ("constants", "ptr"),  # uint64 each: what differs between tiles that share the code
    ("memory_bytes", "u32"),
    ("fuel", "i32"),  # every jump backwards takes one; below 0 the code calls ow_poll, which refills it
    ("x", "u16"),  # the tile's place in the program's rectangle
    ("y", "u16"),
    ("watched_from", "u16"),  # addresses that microthreads still read; a store there calls ow_watch first
    ("watched_bytes", "u16"),
    ("arguments", f"u32[{ARGUMENT_WORDS}]"),
)
"""The part of a PE's state that code may touch: names and types of the fields, in order, C layout."""

DESCRIPTOR_BYTES = 32


class DescriptorKind(IntEnum):
    """What a DSD describes."""

    NONE = 0
    MEM1D = 1
    MEM4D = 2
    FABIN = 3
    FABOUT = 4
    FIFO = 5
    CIRCBUF = 6


DESCRIPTOR = (
    ("kind", "u8"),  # DescriptorKind
    ("flags", "u8"),  # DescriptorFlag
    ("color", "u8"),  # fabric: the color; 0xff if it comes from the queue
    ("queue", "u8"),  # fabric: the queue; FIFO: its number
    ("base", "u16"),  # memory: byte address of the first element
    ("length", "u16"),  # elements; 0x7fff in fabric DSDs: no end
    ("stride", "i16"),  # mem1d: from element to element, in elements of the operation that uses it
    ("index", "u16"),  # fabout: wavelet_index_offset; circbuf: where it stands, in 16-bit words from base
    ("priority", "u8"),  # 0 unset, else 1 low, 2 medium, 3 high
    (
        "simd",
        "u8",
    ),  # fabric: 0 unset, 1 simd_32 (one 32-bit wavelet), 2 simd_64, 3 simd_32_or_64 as published for simd_mode
    ("control_transform", "u8"),
    (
        "zero",
        "u8",
    ),  # fabout: the source whose memory is cleared at the end; 1 the first, 2 the last but scalars, 0 none
    ("extents", "u16[4]"),  # mem4d, outermost first, unused dims are 1; circbuf: the last is its 16-bit words
    ("strides", "i16[4]"),  # mem4d, in elements of the operation that uses it
)
"""A DSD in memory and in code: names and types of the fields, in order, 32 bytes."""


class DescriptorFlag(IntEnum):
    """Bits of `flags`."""

    CONTROL = 1  # fabout: sends control wavelets
    ADVANCE_SWITCH = 2
    INDEXED = 4  # fabout: wavelet_index_offset is set
    INDEXED_IN = 8  # fabin: takes 16-bit data with its index
    SAVE_ADDRESS = 16  # in a DSR: what an operation leaves is where the next one begins
    SINGLE_STEP = 32
    ASYNCHRONOUS = 64  # in a DSR: operations on it are asynchronous, with the actions that @load_to_dsr gave


class OperandKind(IntEnum):
    """What an operand of a vector operation is."""

    NONE = 0
    DSD = 1  # `descriptor` points to it
    DSR_DEST = 2  # `bits` is the register's number
    DSR_SRC0 = 3
    DSR_SRC1 = 4
    SCALAR = 5  # `bits` is the value, in the operation's element type
    POINTER = 6  # `bits` is the byte address of one element


OPERAND = (("kind", "u32"), ("bits", "u32"), ("descriptor", "ptr"))
"""One operand of a vector operation, 16 bytes; the destination comes first."""


class Action(IntEnum):
    """What happens at the end of an asynchronous operation, or when it meets a control wavelet."""

    NONE = 0
    ACTIVATE = 1
    UNBLOCK = 2
    TERMINATE = 3
    BLOCK = 4


class Target(IntEnum):
    """What an id of activate, block and unblock counts."""

    TASK = 0  # local, data or control task by its id
    QUEUE = 1  # input queue
    THREAD = 2  # microthread
    COLOR = 3


VECTOR = (
    ("operation", "u16"),  # index into VECTOR_OPERATIONS
    ("operands", "u8"),
    ("asynchronous", "u8"),
    ("thread", "u8"),  # ut_id; 0xff: by the rule of the architecture; SAID_BEFORE
    ("priority", "u8"),  # as in DESCRIPTOR
    ("end", "u8"),  # Action at the end
    ("end_target", "u8"),  # Target
    ("end_id", "u8"),  # SAID_BEFORE: what ow_vector_id said
    ("control", "u8"),  # Action on a control wavelet
    ("control_target", "u8"),
    ("control_id", "u8"),  # the same
    ("unblock", "u8"),  # 1: also unblocks unblock_id at the end
    ("unblock_target", "u8"),
    ("unblock_id", "u8"),
    ("reserved", "u8"),
    ("location", "u32"),  # index into the program's locations
)
"""The fixed part of a vector operation, or of loading a DSR, 20 bytes."""

SAID_BEFORE = 0xFE
"""In place of an id that only running code knows: the last that ow_vector_id gave."""

VECTOR_OPERATIONS = (
    *(
        "add16",
        "addc16",
        "sub16",
        "and16",
        "or16",
        "xor16",
        "sar16",
        "sll16",
        "slr16",
        "clz",
        "ctz",
        "popcnt",
    ),
    *("mov16", "mov32"),
    *(
        "fabsh",
        "fabss",
        "faddh",
        "faddhs",
        "fadds",
        "fh2s",
        "fh2xp16",
        "fmach",
        "fmachs",
        "fmacs",
        "fmaxh",
        "fmaxs",
    ),
    *("fmovh", "fmovs", "fmulh", "fmuls", "fnegh", "fnegs", "fnormh", "fnorms", "fs2h", "fs2xp16", "fscaleh"),
    *("fscales", "fsubh", "fsubs", "xp162fh", "xp162fs", "dfilt", "random16"),
)
"""The DSD operations, by the names of their builtins ("Builtins for DSD operations")."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One function that code may call; the first argument is always the PeView."""

    name: str
    parameters: tuple[str, ...]
    result: str


RUNTIME = (
    # vector operations; i32 results are a Status
    Runtime("ow_vector", ("ptr", "ptr"), "i32"),  # VECTOR, its OPERANDs
    Runtime(
        "ow_vector_id", ("u32", "u32"), "void"
    ),  # 0 end_id, 1 control_id, 2 thread; the id, for the next operation
    Runtime(
        "ow_vector_complete", (), "u32"
    ),  # 0 if an empty or full FIFO cut the last synchronous operation short
    Runtime("ow_load_dsr", ("u32", "u32", "ptr", "ptr"), "i32"),  # OperandKind, number, DESCRIPTOR, VECTOR
    Runtime("ow_set_dsr_base", ("u32", "u32", "u32"), "void"),  # OperandKind, number, byte address
    Runtime(
        "ow_map_begin", ("ptr", "ptr", "u32"), "i32"
    ),  # OPERANDs, uint8 each: MAP_TYPES index + MAP_WRITE; location
    Runtime("ow_map_next", ("ptr",), "i32"),  # -> uint8: 1 if there is an element, 0 at the end
    Runtime("ow_map_read", ("u32",), "u32"),  # operand -> the element's bits
    Runtime("ow_map_write", ("u32", "u32"), "void"),
    # tasks
    Runtime("ow_task", ("u32", "u32", "u32"), "void"),  # Action, Target, id
    # registers
    Runtime("ow_config_read", ("u32",), "u32"),  # word address
    Runtime("ow_config_write", ("u32", "u32"), "void"),
    Runtime("ow_tsc", ("u32",), "u32"),  # 0..2: the 16-bit words of the counter, lowest first
    Runtime("ow_tsc_control", ("u32",), "void"),  # 0 off, 1 on (from 0), 2 reset
    Runtime("ow_random16", (), "u32"),
    Runtime("ow_prng", ("u32",), "void"),  # chooses the active generator
    Runtime("ow_fifo_length", ("u32", "u32", "u32"), "void"),  # 0 read or 1 write, FIFO, elements
    Runtime("ow_queue_flush", ("u32",), "void"),
    Runtime("ow_queue_status", ("u32", "u32"), "u32"),  # 0 input or 1 output, queue -> wavelets in it
    # host
    Runtime("ow_unblock_commands", (), "void"),
    Runtime("ow_print", ("u32", "u32", "u32"), "void"),  # PrintKind, bits, index of a string
    Runtime("ow_trace", ("u32", "u32", "u32", "u32"), "void"),  # key, PrintKind, bits, index of a string
    # errors
    Runtime("ow_trap", ("u32", "u32", "u64", "u64"), "void"),  # Trap, location, two numbers; does not return
    Runtime(
        "ow_fail", ("u32", "u32", "u64", "u64"), "void"
    ),  # the same, but returns; then the entry returns FAILED
    Runtime("ow_poll", (), "void"),
    Runtime("ow_watch", ("u32", "u32"), "void"),  # address and bytes of a store that follows
    # arithmetic that the host's processor may lack; float16 and its kin as uint16 bits
    Runtime("ow_half_to_single", ("u32", "u32"), "f32"),  # bits, HalfFormat
    Runtime("ow_single_to_half", ("f32", "u32"), "u32"),
)
"""Every function that code may call, with the types of parameters (after the PeView) and result."""


class HalfFormat(IntEnum):
    """The 16-bit floats: IEEE binary16, bfloat16, and cb16 (6 bits of exponent, 9 of mantissa)."""

    F16 = 0
    BF16 = 1
    CB16 = 2


class PrintKind(IntEnum):
    """What <simprint> and <debug> show."""

    STRING = 0
    U16 = 1
    U32 = 2
    I16 = 3
    I32 = 4
    F16 = 5
    F32 = 6
    HEX16 = 7
    HEX32 = 8
    BOOL = 9
    TIMESTAMP = 10  # the counter at this moment; bits do not count


MAP_TYPES = ("i8", "u8", "i16", "u16", "i32", "u32", "f16", "bf16", "cb16", "f32")
"""Element types of @map's operands, by their index."""
MAP_WRITE = 0x80
"""Added to the type of an operand that @map writes."""
MAP_END = 0xFF
"""Ends the list of types, and so counts the operands."""


class Trap(IntEnum):
    """Errors that code finds; the two numbers are given behind each."""

    INDEX = 0  # index, extent
    ADDRESS = 1  # address, bytes
    ASSERT = 2
    DIVISION = 3
    UNREACHABLE = 4
    STACK = 5  # bytes of the frame; bytes of the stack, and from bit 32 the index of the function's name in the strings
    SHIFT = 6  # bits, width
