"""Queues between the router and the compute element."""

from __future__ import annotations

from openwafer.csl._diagnostics import Note
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._ids import require_color
from openwafer.csl.sema.builtins._settings import priority
from openwafer.csl.sema.builtins._tasks import set_handler

OUTPUT = 8
"""Flushed queues are numbered together: input queues, and output queues from here on."""


@builtin("initialize_queue", 1, 2, stage="block")
def initialize_queue(call: Call) -> Value:
    """Gives a queue its color."""
    queue = call.known(0, "the queue")
    if queue.type not in (t.INPUT_QUEUE, t.OUTPUT_QUEUE):
        call.error(call.span_of(0), expected="an input_queue or output_queue", found=f"`{queue.type}`")
    output = queue.type is t.OUTPUT_QUEUE
    name = f"{'output' if output else 'input'} queue {queue.data}"
    old = call.engine.resources.queues.get((str(queue.type), queue.data))
    if old is not None:
        call.engine.fail(call.span, f"{name} is initialised twice", notes=(Note(old, "the first time here"),))
    call.engine.resources.queues[str(queue.type), queue.data] = call.span
    if call.architecture == "wse2" and output:
        if len(call) > 1:
            call.error(
                call.span_of(1),
                "an output queue of the WSE-2 has no color of its own",
                hint="leave the settings out: the DSD gives the color; choose with @is_arch",
            )
        return v.NOTHING
    if len(call) < 2:
        call.error(None, f"{name} needs a color", hint="write @initialize_queue(queue, .{ .color = c })")
    names = ("color", "priority") if call.architecture == "wse2" else ("color", "ctrl_table_id")
    fields = call.fields(1, "the configuration of a queue", names)
    if "color" not in fields:
        call.error(call.span_of(1), f"{name} needs a color", hint="add .color = c")
    color = fields["color"]
    if color.type is not t.COLOR or not color.known:
        call.error(
            call.field_span(1, "color"), f"the color of {name}", expected="`color`", found=f"`{color.type}`"
        )
    require_color(call, color, call.field_span(1, "color"))
    table = 0
    if "ctrl_table_id" in fields:
        span = call.field_span(1, "ctrl_table_id")
        if output:
            call.error(span, "only input queues have a control task table", hint="leave ctrl_table_id out")
        given = call.engine.require_known(fields["ctrl_table_id"], span, "`ctrl_table_id`")
        if not t.is_integer(given.type):
            call.error(span, "`ctrl_table_id`", expected="an integer", found=f"`{given.type}`")
        table = call.engine.require_within(int(given.data), span, "`ctrl_table_id`", 0, 63)
        call.engine.resources.control_tables[int(queue.data)] = (table, span)
    level = priority(call, fields["priority"], call.field_span(1, "priority")) if "priority" in fields else 0
    call.unit.queues.append(
        ir.BoundQueue("output" if output else "input", queue.data, color.data, level, call.location)
    )
    return v.NOTHING


def _queue(call: Call, index: int) -> Value:
    """An input_queue or output_queue of the WSE-3, which alone flushes queues."""
    if call.architecture != "wse3":
        call.error(None, "only the WSE-3 flushes queues", hint="guard this with @is_arch")
    queue = call.value(index)
    if queue.type not in (t.INPUT_QUEUE, t.OUTPUT_QUEUE):
        call.error(call.span_of(index), expected="an input_queue or output_queue", found=f"`{queue.type}`")
    return queue


@builtin("queue_flush", 1, stage="code")
def queue_flush(call: Call) -> Value:
    """Starts the handler of the queue, or else the teardown task, once the queue is empty (WSE-3)."""
    queue = _queue(call, 0)
    number = call.operand(queue)
    if queue.type is t.OUTPUT_QUEUE:
        one = ir.Compute(call.result(), "or", "u16", (number, ir.Number("u16", OUTPUT)), call.location)
        number = call.emit(one)
    return call.machine("queue_flush", number)


@builtin("set_empty_queue_handler", 2, stage="block")
def set_empty_queue_handler(call: Call) -> Value:
    """A function that runs once @queue_flush has found a queue empty (WSE-3)."""
    function = call.function(0, "a handler of an empty queue")
    kind = call.value(0).type
    assert isinstance(kind, t.FunctionType)
    if kind.kind == "task" or kind.parameters or kind.result is not t.VOID:
        call.error(call.span_of(0), "a handler of an empty queue", expected="`fn() void`", found=f"`{kind}`")
    queue = _queue(call, 1)
    number = int(call.known(1, "the queue").data)
    set_handler(call, function, number + OUTPUT * (queue.type is t.OUTPUT_QUEUE))
    return v.NOTHING
