"""Tasks: which id runs which function, and activating, blocking and unblocking them."""

from __future__ import annotations

from typing import Literal

from openwafer.csl._diagnostics import Note
from openwafer.csl._source import Span
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._facts import Binding, TaskState
from openwafer.csl.sema._values import FunctionValue, Value
from openwafer.csl.sema.builtins._ids import require_color
from openwafer.csl.sema.builtins._limits import MACHINE_NAME

TEARDOWN = 29
"""The id that runs when a color is torn down ("Task Identifiers and Task Execution")."""
ID_TYPES = {"data": t.DATA_TASK_ID, "local": t.LOCAL_TASK_ID, "control": t.CONTROL_TASK_ID}
TARGETS: dict[t.Type, str] = {
    t.LOCAL_TASK_ID: "task",
    t.DATA_TASK_ID: "task",
    t.CONTROL_TASK_ID: "task",
    t.COLOR: "color",
    t.INPUT_QUEUE: "queue",
    t.UT_ID: "thread",
}
"""What can be blocked, and what the PE ABI calls it."""


def task_argument(call: Call, index: int) -> FunctionValue:
    """An argument that is a task."""
    function = call.function(index, "a task to bind")
    declared = function.declaration
    if declared.kind != "task":
        call.error(
            call.span_of(index),
            f"`{declared.name}` is a function, only tasks can be bound",
            hint=f"declare it as `task {declared.name}(...) void`",
        )
    return function


def _bind(call: Call, kind: Literal["data", "local", "control"]) -> FunctionValue:
    function = task_argument(call, 0)
    number = int(call.known(1, "the id of a task", ID_TYPES[kind]).data)
    resources = call.engine.resources
    if number == TEARDOWN and kind == "local":
        flushing = next((one for one in resources.bindings.values() if one.kind == "empty_queue"), None)
        if flushing is not None:
            call.engine.fail(
                call.span,
                f"queues have handlers, which take the teardown id: `{function.name}` cannot have it",
                hint="keep either the task or the handlers",
                notes=(Note(flushing.span, "the first handler is set here"),),
            )
        add_binding(call, ("teardown", -1), Binding("teardown", -1, function, call.span))
        return function
    own_table = kind == "control" and resources.control_table is not None
    add_binding(
        call, ("control" if own_table else "tasks", number), Binding(kind, number, function, call.span)
    )
    return function


def add_binding(call: Call, key: tuple[str, int], binding: Binding) -> None:
    """Gives an id its task, unless it has one."""
    bindings = call.engine.resources.bindings
    old = bindings.get(key)
    if old is not None and old.kind == "teardown":
        what = f"color {old.id}" if old.id >= 0 else "the teardown id"
        call.engine.fail(
            call.span,
            f"{what} has the handler `{old.function.name}` already",
            hint="give each color one handler",
            notes=(Note(old.span, "set here"),),
        )
    if old is not None:
        name = f"{old.kind} task `{old.function.name}`"
        call.engine.fail(
            call.span,
            f"id {key[1]} already runs the {name}",
            hint="bind each task to an id of its own; data, local and control tasks share the ids",
            notes=(Note(old.span, "bound here"),),
        )
    bindings[key] = binding


def _parameters(call: Call, function: FunctionValue, index: int = 0) -> list[t.Type]:
    kind = call.value(index).type
    assert isinstance(kind, t.FunctionType)
    found = [one for one in kind.parameters if one is not None]
    if len(found) != len(kind.parameters):
        call.error(call.span_of(index), f"the parameters of task `{function.name}` need types of their own")
    return found


@builtin("bind_local_task", 2, stage="block")
def bind_local_task(call: Call) -> Value:
    """Local tasks run when they are activated; they have no parameters."""
    function = _bind(call, "local")
    if _parameters(call, function):
        call.error(
            call.span_of(0),
            f"the local task `{function.name}` must not have parameters",
            hint="keep what it needs in a global variable",
        )
    call.code_of(function)
    return v.NOTHING


def check_payload(call: Call, function: FunctionValue, kind: str, index: int = 0) -> None:
    """That the task, argument `index`, takes what a wavelet carries; a data task takes something."""
    parameters = _parameters(call, function, index)
    if kind == "data" and not parameters:
        call.error(
            call.span_of(index),
            f"the data task `{function.name}` needs a parameter for the wavelet's data",
            hint=f"write `task {function.name}(data: u32) void`",
        )
    sizes = [
        one.bytes if isinstance(one, t.Primitive) and one.ir is not None and not t.is_odd(one) else 0
        for one in parameters
    ]
    if sizes not in ([], [4], [2], [2, 2]):
        call.error(
            call.span_of(index),
            f"the {kind} task `{function.name}` gets one wavelet of 32 bits",
            expected="one parameter of 32 or 16 bits, or two of 16",
            found=", ".join(f"`{one}`" for one in parameters),
        )


@builtin("bind_data_task", 2, stage="block")
def bind_data_task(call: Call) -> Value:
    """Data tasks run for each wavelet of a color; their parameters are the wavelet."""
    function = _bind(call, "data")
    check_payload(call, function, "data")
    call.code_of(function)
    return v.NOTHING


@builtin("bind_control_task", 2, stage="block")
def bind_control_task(call: Call) -> Value:
    """Control tasks run for control wavelets that carry their id."""
    function = _bind(call, "control")
    check_payload(call, function, "control")
    call.code_of(function)
    return v.NOTHING


@builtin("set_teardown_handler", 2, stage="block")
def set_teardown_handler(call: Call) -> Value:
    """A function that runs when a color is torn down."""
    function = call.function(0, "a teardown handler")
    kind = call.value(0).type
    assert isinstance(kind, t.FunctionType)
    if kind.parameters or kind.result is not t.VOID:
        call.error(call.span_of(0), "a teardown handler", expected="`fn() void`", found=f"`{kind}`")
    color = require_color(call, call.known(1, "the color", t.COLOR), call.span_of(1))
    every = call.engine.resources.bindings.get(("teardown", -1))
    if every is not None:
        call.engine.fail(
            call.span,
            f"the teardown id runs the task `{every.function.name}`, so colors cannot have handlers",
            hint="keep either the task or the handlers",
            notes=(Note(every.span, "bound here"),),
        )
    add_binding(call, ("teardown", color), Binding("teardown", color, function, call.span))
    call.code_of(function)
    return v.NOTHING


def set_handler(call: Call, function: FunctionValue, queue: int) -> None:
    """What @set_empty_queue_handler says, `queue` counted as a Task of the image counts it."""
    task = call.engine.resources.bindings.get(("teardown", -1))
    if task is not None:
        call.engine.fail(
            call.span,
            f"the teardown id runs the task `{task.function.name}`, so queues cannot have handlers",
            hint="keep either the task or the handlers",
            notes=(Note(task.span, "bound here"),),
        )
    old = call.engine.resources.bindings.get(("empty_queue", queue))
    if old is not None:
        call.engine.fail(
            call.span,
            f"this queue has the handler `{old.function.name}` already",
            hint="give each queue one handler",
            notes=(Note(old.span, "set here"),),
        )
    call.engine.resources.bindings["empty_queue", queue] = Binding("empty_queue", queue, function, call.span)
    call.code_of(function)


@builtin("set_control_task_table", 0, 1, stage="block")
def set_control_task_table(call: Call) -> Value:
    """Gives control tasks of the WSE-3 ids of their own, so that local tasks may have the same numbers."""
    if call.architecture != "wse3":
        call.error(None, "only the WSE-3 has a task table for control tasks", hint="guard this with @is_arch")
    resources = call.engine.resources
    if resources.control_table is not None:
        call.engine.fail(
            call.span,
            "the control task table is set twice",
            notes=(Note(resources.control_table, "set here"),),
        )
    if len(call):
        fields = call.fields(0, "the configuration of the table", ("instructions", "stride"))
        for name, allowed in (("instructions", (2, 4, 8)), ("stride", tuple(range(1, 8)))):
            if name in fields and fields[name].data not in allowed:
                numbers = ", ".join(map(str, allowed))
                call.error(
                    call.field_span(0, name), f"`{name}` is one of {numbers}, found {v.show(fields[name])}"
                )
        if "stride" in fields:
            resources.control_stride = int(fields["stride"].data)
    resources.control_table = call.span
    for key, binding in list(resources.bindings.items()):
        if binding.kind == "control":
            resources.bindings["control", key[1]] = resources.bindings.pop(key)
    return v.NOTHING


def bound_id(call: Call, function: FunctionValue, kind: str | None, span: Span) -> int:
    """The id that a task is bound to; with `kind` only as a task of that kind."""
    for binding in call.engine.resources.bindings.values():
        if binding.function is function and kind in (None, binding.kind):
            return binding.id
    call.error(
        span,
        f"`{function.name}` is not bound as a {kind or 'data or local'} task",
        hint=f"bind it in a comptime block: @bind_{kind or 'local'}_task({function.name}, id)",
    )


# --- states -----------------------------------------------------------------------------------------------


def _state(call: Call, number: int) -> TaskState:
    return call.engine.resources.states.setdefault(number, TaskState())


@builtin("activate", 1)
def activate(call: Call) -> Value:
    """Lets a local task run."""
    value = call.value(0)
    if isinstance(value.data, FunctionValue):
        call.error(
            call.span_of(0),
            f"`{value.data.name}` is the task, @activate takes its id",
            hint="pass the local_task_id that it is bound to",
        )
    found = call.coerced(0, t.LOCAL_TASK_ID)
    if found.known:
        call.engine.resources.activations.setdefault(int(found.data), call.span)
    if call.comptime:
        _state(call, int(call.known(0, "the id of a task").data)).active = True
        return v.NOTHING
    return call.machine("activate", call.operand(found))


def _blocking(call: Call, verb: Literal["block", "unblock"]) -> Value:
    value = call.value(0)
    target = TARGETS.get(value.type)
    wse3_only = value.type in (t.INPUT_QUEUE, t.UT_ID)
    if target is None:
        names = "a color" if call.architecture == "wse2" else "an input_queue, a ut_id"
        call.error(
            call.span_of(0),
            f"what @{verb} takes",
            expected=f"{names}, a data_task_id or a local_task_id",
            found=f"`{value.type}`",
        )
    if call.architecture == "wse3" and value.type is t.COLOR:
        call.error(
            call.span_of(0),
            f"@{verb} takes no color on the WSE-3",
            hint="pass the input queue that the color arrives in; choose with @is_arch",
        )
    if call.architecture == "wse2" and wse3_only:
        call.error(
            call.span_of(0),
            f"@{verb} takes no `{value.type}` on the {MACHINE_NAME['wse2']}",
            hint="pass the color; choose with @is_arch",
        )
    if not call.comptime:
        return call.machine(verb if target == "task" else f"{verb}_{target}", call.operand(value))
    known = call.known(0, "what is blocked or unblocked")
    number = require_color(call, known, call.span_of(0)) if known.type is t.COLOR else int(known.data)
    if target == "task":
        _state(call, number).blocked = verb == "block"
        return v.NOTHING
    into, out_of = call.unit.blocked, call.unit.opened
    if verb == "unblock":
        into, out_of = out_of, into
    if (target, number) in out_of:
        out_of.remove((target, number))
    if (target, number) not in into and not (verb == "unblock" and target == "thread"):
        into.append((target, number))
    return v.NOTHING


@builtin("block", 1)
def block(call: Call) -> Value:
    """Holds a task back."""
    return _blocking(call, "block")


@builtin("unblock", 1)
def unblock(call: Call) -> Value:
    """Lets it run again."""
    return _blocking(call, "unblock")
