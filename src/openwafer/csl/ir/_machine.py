"""The machine operations that PE-IR's `machine` instruction can name: types, and what they become in the PE ABI."""

from __future__ import annotations

from dataclasses import dataclass

from openwafer.csl.ir._ir import Type


@dataclass(frozen=True, slots=True)
class Operation:
    """One machine operation; `runtime` is the function of the PE ABI that carries it out."""

    parameters: tuple[Type, ...]
    result: Type
    runtime: str
    cost: str
    """Its cost class."""
    first: tuple[int, ...] = ()
    """Numbers that go before the operands, so that one runtime function serves several operations."""


MACHINE: dict[str, Operation] = {
    # first: Action, Target; operand: the id
    "activate": Operation(("u16",), "void", "ow_task", "task", (1, 0)),
    "unblock": Operation(("u16",), "void", "ow_task", "task", (2, 0)),
    "block": Operation(("u16",), "void", "ow_task", "task", (4, 0)),
    "unblock_queue": Operation(("u16",), "void", "ow_task", "task", (2, 1)),
    "block_queue": Operation(("u16",), "void", "ow_task", "task", (4, 1)),
    "unblock_thread": Operation(("u16",), "void", "ow_task", "task", (2, 2)),
    "block_thread": Operation(("u16",), "void", "ow_task", "task", (4, 2)),
    "unblock_color": Operation(("u16",), "void", "ow_task", "task", (2, 3)),
    "block_color": Operation(("u16",), "void", "ow_task", "task", (4, 3)),
    "config_read": Operation(("u16",), "u16", "ow_config_read", "config"),
    "config_write": Operation(("u16", "u16"), "void", "ow_config_write", "config"),
    "tsc": Operation(("u16",), "u16", "ow_tsc", "tsc"),
    "tsc_off": Operation((), "void", "ow_tsc_control", "tsc", (0,)),
    "tsc_on": Operation((), "void", "ow_tsc_control", "tsc", (1,)),
    "tsc_reset": Operation((), "void", "ow_tsc_control", "tsc", (2,)),
    "random16": Operation((), "u16", "ow_random16", "random"),
    "prng": Operation(("u16",), "void", "ow_prng", "config"),
    "vector_complete": Operation((), "bool", "ow_vector_complete", "move"),
    # ids of the vector operation, or DSR load, that follows
    "end_id": Operation(("u16",), "void", "ow_vector_id", "move", (0,)),
    "control_id": Operation(("u16",), "void", "ow_vector_id", "move", (1,)),
    "thread_id": Operation(("u16",), "void", "ow_vector_id", "move", (2,)),
    # operands: OperandKind of a DSR, its number, the address
    "set_dsr_base": Operation(("u16", "u16", "ptr"), "void", "ow_set_dsr_base", "dsd_edit"),
    "fifo_read_length": Operation(("u16", "u16"), "void", "ow_fifo_length", "dsd_edit", (0,)),
    "fifo_write_length": Operation(("u16", "u16"), "void", "ow_fifo_length", "dsd_edit", (1,)),
    "queue_flush": Operation(("u16",), "void", "ow_queue_flush", "config"),
    "input_queue_length": Operation(("u16",), "u16", "ow_queue_status", "config", (0,)),
    "output_queue_length": Operation(("u16",), "u16", "ow_queue_status", "config", (1,)),
    "unblock_commands": Operation((), "void", "ow_unblock_commands", "task"),
    # PrintKind is the first number; operands: bits, index of a string of the unit
    **{
        f"print_{kind}": Operation(("u32", "u32"), "void", "ow_print", "print", (number,))
        for number, kind in enumerate(
            ("string", "u16", "u32", "i16", "i32", "f16", "f32", "hex16", "hex32", "bool")
        )
    },
    # operands: key, PrintKind, bits, index of a string
    "trace": Operation(("u32", "u32", "u32", "u32"), "void", "ow_trace", "print"),
    "x": Operation((), "u16", "", "move"),  # read from the PeView
    "y": Operation((), "u16", "", "move"),
}
"""By name."""
