"""Queues between the router and the compute element."""

from __future__ import annotations

from openwafer.csl._diagnostics import Note
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._settings import priority


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
    table = fields.get("ctrl_table_id")
    if table is not None and (not t.is_integer(table.type) or table.data != 0):
        call.error(
            call.field_span(1, "ctrl_table_id"),
            "several control task tables are not supported yet",
            hint="give every control task an id of its own and leave ctrl_table_id out",
        )
    level = priority(call, fields["priority"], call.field_span(1, "priority")) if "priority" in fields else 0
    call.unit.queues.append(
        ir.BoundQueue("output" if output else "input", queue.data, color.data, level, call.location)
    )
    return v.NOTHING


@builtin("queue_flush", 1, stage="code")
def queue_flush(call: Call) -> Value:
    """Activates the teardown task once the queue is empty (WSE-3)."""
    if call.architecture != "wse3":
        call.error(None, "only the WSE-3 flushes queues", hint="guard this with @is_arch")
    queue = call.value(0)
    if queue.type not in (t.INPUT_QUEUE, t.OUTPUT_QUEUE):
        call.error(call.span_of(0), expected="an input_queue or output_queue", found=f"`{queue.type}`")
    return call.machine("queue_flush", call.operand(queue))


@builtin("set_empty_queue_handler", 2, stage="block")
def set_empty_queue_handler(call: Call) -> Value:
    """Documented, not there yet."""
    call.error(
        None,
        "@set_empty_queue_handler is not supported yet",
        hint="bind a task to the teardown id (<tile_config> teardown.get_task_id()) and ask there which queue is empty",
    )
