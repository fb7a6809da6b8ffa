"""Colors, task ids, queues, microthreads and DSRs by their numbers."""

from __future__ import annotations

from typing import Final

from openwafer.csl._source import Span
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._limits import LIMITS, MACHINE_NAME, Limits, span_of

NO_COLOR: Final = 32
"""Programs for SDK 1.0 to 1.2 write @get_color(32) where a param has no color, and look for it before they use one."""

_FIFO_REGISTERS: dict[t.Type, t.Primitive] = {t.DSR_FIFO_DEST: t.DSR_DEST, t.DSR_FIFO_SRC1: t.DSR_SRC1}
"""Registers that hold a FIFO, and what they are without it."""


def limits(call: Call) -> Limits:
    """Those of the target."""
    return LIMITS[call.architecture]


def numbered(
    call: Call, index: int, type: t.Primitive, ids: range, what: str, *, runtime: bool = True
) -> Value:
    """An argument that is a number of `ids`, as a value of `type`; with `runtime` it may also be a u16 of running code."""
    value = call.value(index)
    if not value.known and runtime:
        number = call.coerced(index, t.U16)
        return Value(type, number.data, False)
    value = call.known(index, f"the number of {what}")
    if not t.is_integer(value.type):
        call.error(
            call.span_of(index), f"the number of {what}", expected="an integer", found=f"`{value.type}`"
        )
    if value.data not in ids:
        call.error(
            call.span_of(index),
            f"{what} {value.data} is out of range: the {MACHINE_NAME[call.architecture]} has {span_of(ids)}",
        )
    return Value(type, int(value.data))


@builtin("get_color", 1)
def get_color(call: Call) -> Value:
    """`@get_color(3)`; NO_COLOR is taken too."""
    value = call.value(0)
    if value.known and t.is_integer(value.type) and value.data == NO_COLOR:
        return Value(t.COLOR, NO_COLOR)
    return numbered(call, 0, t.COLOR, limits(call).colors, "color")


def require_color(call: Call, color: Value, span: Span) -> int:
    """The number of a known color that wavelets can have."""
    number = int(color.data)
    if number == NO_COLOR:
        call.error(span, f"@get_color({NO_COLOR}) stands for no color", hint="give this a color that exists")
    return number


@builtin("get_local_task_id", 1)
def get_local_task_id(call: Call) -> Value:
    """`@get_local_task_id(8)`."""
    return numbered(call, 0, t.LOCAL_TASK_ID, limits(call).local_tasks, "local task id")


@builtin("get_control_task_id", 1)
def get_control_task_id(call: Call) -> Value:
    """`@get_control_task_id(40)`."""
    return numbered(call, 0, t.CONTROL_TASK_ID, limits(call).control_tasks, "control task id")


@builtin("get_data_task_id", 1)
def get_data_task_id(call: Call) -> Value:
    """`@get_data_task_id(color)` on the WSE-2, `@get_data_task_id(input_queue)` on the WSE-3."""
    source = t.COLOR if call.architecture == "wse2" else t.INPUT_QUEUE
    value = call.value(0)
    if value.type is not source:
        other = "@get_input_queue" if source is t.INPUT_QUEUE else "@get_color"
        call.error(
            call.span_of(0),
            f"a data task of the {MACHINE_NAME[call.architecture]}",
            expected=f"`{source}`",
            found=f"`{value.type}`",
            hint=f"make it with {other}; choose between the machines with @is_arch",
        )
    if value.known and source is t.COLOR:
        require_color(call, value, call.span_of(0))
    return Value(t.DATA_TASK_ID, value.data, value.known)


@builtin("get_input_queue", 1)
def get_input_queue(call: Call) -> Value:
    """`@get_input_queue(2)`."""
    return numbered(call, 0, t.INPUT_QUEUE, limits(call).input_queues, "input queue", runtime=False)


@builtin("get_output_queue", 1)
def get_output_queue(call: Call) -> Value:
    """`@get_output_queue(2)`."""
    return numbered(call, 0, t.OUTPUT_QUEUE, limits(call).output_queues, "output queue", runtime=False)


@builtin("get_ut_id", 1)
def get_ut_id(call: Call) -> Value:
    """`@get_ut_id(4)`: a microthread of the WSE-3."""
    if call.architecture != "wse3":
        call.error(
            None,
            "only microthreads of the WSE-3 have ids of their own",
            hint="on the WSE-2 the queue of the operation decides; guard this with @is_arch",
        )
    return numbered(call, 0, t.UT_ID, limits(call).microthreads, "microthread")


@builtin("get_dsr", 2)
def get_dsr(call: Call) -> Value:
    """`@get_dsr(dsr_dest, 1)`. Two names may stand for one register: whoever loads it last decides."""
    kind = call.type(0, "the type of a DSR")
    if kind not in (*_FIFO_REGISTERS, t.DSR_DEST, t.DSR_SRC0, t.DSR_SRC1) or not isinstance(
        kind, t.Primitive
    ):
        call.error(call.span_of(0), expected="dsr_dest, dsr_src0 or dsr_src1", found=f"`{kind}`")
    given = call.value(1)
    if kind in _FIFO_REGISTERS and isinstance(given.type, t.Primitive) and given.type.kind == "dsr":
        plain = _FIFO_REGISTERS[kind]
        if given.type is not plain:
            call.error(call.span_of(1), f"a `{kind}`", expected=f"`{plain}`", found=f"`{given.type}`")
        return Value(kind, given.data)
    return numbered(call, 1, kind, limits(call).dsrs, "DSR", runtime=False)


@builtin("get_xdsr", 1)
def get_xdsr(call: Call) -> Value:
    """`@get_xdsr(4)`."""
    return numbered(call, 0, t.XDSR, limits(call).xdsrs, "XDSR", runtime=False)


@builtin("get_filter_id", 1)
def get_filter_id(call: Call) -> Value:
    """Which of the PE's filters a color has."""
    color = int(call.known(0, "the color", t.COLOR).data)
    filters = call.engine.resources.filters
    if color not in filters:
        call.error(
            call.span_of(0),
            f"color {color} has no filter here",
            hint="set one with @set_local_color_config before",
        )
    return Value(t.U16, filters[color])
