"""Rotating tasks of the WSE-3: in place of every so-manyth start of a data task a control task starts.

Source: "Builtins for WSE-3" of the SDK documentation 2.10. Its examples count starts in two ways; here the rule is that of
its text: each start of `main` compares the counter with `limit`; if they are equal `alt` starts in its place, with the
wavelet, and the counter is 0 again, else it goes up by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openwafer.csl._diagnostics import Note
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._facts import Binding, Rotation
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._tasks import add_binding, check_payload, task_argument

if TYPE_CHECKING:
    from openwafer.csl.sema._engine import Engine

PAIRS = 2
"""As many as the machine can rotate."""


@builtin("bind_rotating_tasks", 4, stage="block", dialects=("2.10",))
def bind_rotating_tasks(call: Call) -> Value:
    """Binds a data task, and control task 0 of its queue, which takes its turn every `limit` starts."""
    if call.architecture != "wse3":
        call.error(None, "only the WSE-3 rotates tasks", hint="count in the data task; choose with @is_arch")
    main, alternate = task_argument(call, 0), task_argument(call, 1)
    check_payload(call, main, "data", 0)
    check_payload(call, alternate, "control", 1)
    number = int(call.known(2, "the id of a task", t.DATA_TASK_ID).data)
    fields = call.fields(3, "the configuration of a rotation", ("limit", "init"))
    if "limit" not in fields:
        call.error(call.span_of(3), "a rotation needs `limit`", hint="say after how many starts: .limit = N")

    def count(name: str, most: int) -> int:
        span = call.field_span(3, name)
        value = call.engine.require_known(call.engine.coerce(fields[name], t.U16, span), span, f"`{name}`")
        return call.engine.require_within(int(value.data), span, f"`{name}`", 0, most)

    limit = count("limit", 0xFFFF)
    start = count("init", limit) if "init" in fields else 0
    rotations = call.engine.resources.rotations
    if len(rotations) == PAIRS:
        call.engine.fail(
            call.span,
            f"the WSE-3 rotates {PAIRS} pairs of tasks, this is one more",
            notes=tuple(Note(one.span, f"`{one.function.name}` takes turns here") for one in rotations),
        )
    add_binding(call, ("tasks", number), Binding("data", number, main, call.span))
    rotations.append(Rotation(number, limit, start, alternate, call.span))
    call.code_of(main)
    call.code_of(alternate)
    return v.NOTHING


def bind_alternates(engine: Engine) -> dict[int, tuple[int, int, int]]:
    """Binds the control tasks, once every queue's control table is known; `BoundTask.rotation` by data task id."""
    resources, found = engine.resources, {}
    table = "tasks" if resources.control_table is None else "control"
    for one in resources.rotations:
        if ("input_queue", one.id) not in resources.queues:
            engine.report(
                one.span,
                f"tasks rotate on input queue {one.id}, which has no color",
                hint=f"give it one: @initialize_queue(@get_input_queue({one.id}), .{{ .color = c }})",
            )
        point = resources.control_tables.get(one.id, (0, one.span))[0] * resources.control_stride
        old = resources.bindings.get((table, point))
        if old is not None:
            engine.report(
                one.span,
                f"control task 0 of input queue {one.id} is `{one.function.name}`, but its id {point} already runs "
                f"the {old.kind} task `{old.function.name}`",
                hint="call @set_control_task_table(), and give the queue a table of its own with .ctrl_table_id",
                notes=(Note(old.span, "bound here"),),
            )
        resources.bindings[table, point] = Binding("control", point, one.function, one.span)
        found[one.id] = (one.limit, one.start, point)
    return found
