"""The last argument of DSD operations: `.{ .async = true, .activate = id, ... }`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from openwafer.artifact._pe_abi import SAID_BEFORE
from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._builtin import Call
from openwafer.csl.sema._values import FunctionValue, Value
from openwafer.csl.sema.builtins._tasks import TARGETS, bound_id

LEVELS = ("low", "medium", "high")
ASYNC = ("async", "activate", "unblock", "on_control")


@dataclass(frozen=True, slots=True)
class Config:
    """Settings, and what is not part of an instruction's settings."""

    settings: ir.Settings
    index: Value | None = None
    """What indexed DSDs get."""
    said: tuple[tuple[str, Value], ...] = ()
    """Ids that only running code knows, by the machine operation that says them before the instruction."""

    def say_ids(self, call: Call) -> None:
        """The code that must stand right before the instruction."""
        for name, value in self.said:
            call.machine(name, call.operand(value))


def choice(call: Call, value: Value, span: Span, what: str, names: tuple[str, ...]) -> str:
    """`.{ .name = true }`, the way in which CSL writes one of several."""
    listed = ", ".join(names[:-1]) + f" or {names[-1]}"
    fields = call.engine.struct_fields(value, span, what, names)
    chosen = [name for name, on in fields.items() if on.known and on.data is True]
    if len(fields) != 1 or len(chosen) != 1:
        call.error(span, f"{what} has exactly one field, which is true", hint=f"it is one of {listed}")
    return chosen[0]


def priority(call: Call, value: Value, span: Span) -> int:
    """`.{ .high = true }` as the number of the PE ABI."""
    return 1 + LEVELS.index(choice(call, value, span, "a priority", LEVELS))


def flag(call: Call, fields: dict[str, Value], index: int, name: str) -> bool:
    """A field that is true or false, false where it is left out."""
    if name not in fields:
        return False
    span = call.field_span(index, name)
    found = call.engine.require_known(call.engine.coerce(fields[name], t.BOOL, span), span, f"`{name}`")
    return bool(found.data)


_Said = dict[str, Value]


def _number(call: Call, value: Value, span: Span, what: str, name: str, said: _Said) -> int:
    """An id; one that only running code knows goes into `said`."""
    if value.known or call.comptime:
        return int(call.engine.require_known(value, span, what).data)
    said[name] = value
    return SAID_BEFORE


def _local_id(call: Call, value: Value, span: Span, what: str, name: str, said: _Said) -> int:
    """A local task by its id, or by the task's name."""
    if value.known and isinstance(value.data, FunctionValue):
        return bound_id(call, value.data, "local", span)
    if value.type is not t.LOCAL_TASK_ID:
        call.error(span, what, expected="a local_task_id or a task", found=f"`{value.type}`")
    return _number(call, value, span, what, name, said)


def _unblocked(call: Call, value: Value, span: Span, name: str, said: _Said) -> tuple[str, int]:
    if value.known and isinstance(value.data, FunctionValue):
        return "task", bound_id(call, value.data, None, span)
    wrong = t.COLOR if call.architecture == "wse3" else t.INPUT_QUEUE
    if value.type not in TARGETS or value.type in (wrong, t.CONTROL_TASK_ID, t.UT_ID):
        names = "a color" if call.architecture == "wse2" else "an input_queue"
        call.error(
            span,
            "what an operation unblocks",
            expected=f"{names}, a data_task_id, a local_task_id or a task",
            found=f"`{value.type}`",
        )
    return TARGETS[value.type], _number(call, value, span, "what is unblocked", name, said)


def asynchronous(call: Call, index: int, fields: dict[str, Value]) -> Config:
    """The settings that @load_to_dsr and operations share."""
    is_async = flag(call, fields, index, "async")
    for name in ("activate", "unblock", "on_control"):
        if name in fields and not is_async:
            call.error(
                call.field_span(index, name),
                f"`{name}` is only for asynchronous operations",
                hint="add .async = true",
            )
    if "activate" in fields and "unblock" in fields:
        call.error(
            call.field_span(index, "unblock"), "an operation ends with `activate` or `unblock`, not both"
        )
    end: tuple[str, str, int] | None = None
    said: _Said = {}
    if "activate" in fields:
        span = call.field_span(index, "activate")
        number = _local_id(call, fields["activate"], span, "what an operation activates", "end_id", said)
        end = ("activate", "task", number)
    elif "unblock" in fields:
        span = call.field_span(index, "unblock")
        end = ("unblock", *_unblocked(call, fields["unblock"], span, "end_id", said))
    control = None
    if "on_control" in fields:
        span = call.field_span(index, "on_control")
        actions = call.engine.struct_fields(
            fields["on_control"], span, "`on_control`", ("terminate", "activate", "unblock")
        )
        if len(actions) != 1:
            call.error(span, "`on_control` has one field: terminate, activate or unblock")
        ((action, value),) = actions.items()
        if action == "activate":
            number = _local_id(call, value, span, "what a control wavelet activates", "control_id", said)
            control = ("activate", "task", number)
        elif action == "unblock":
            control = ("unblock", *_unblocked(call, value, span, "control_id", said))
        elif value.known and value.data is True:
            control = ("terminate", "task", 0)
    return Config(
        ir.Settings(asynchronous=is_async, end=end, control=control),
        said=tuple(said.items()),
    )


def with_thread(call: Call, index: int, fields: dict[str, Value], found: Config) -> Config:
    """The settings with the microthread and the priority that `fields` give."""
    settings = found.settings
    if "priority" in fields:
        level = priority(call, fields["priority"], call.field_span(index, "priority"))
        settings = replace(settings, priority=level)
    if "ut_id" not in fields:
        return replace(found, settings=settings)
    span = call.field_span(index, "ut_id")
    if call.architecture != "wse3":
        call.error(
            span,
            "only operations of the WSE-3 name their microthread",
            hint="on the WSE-2 the queue decides; guard this with @is_arch",
        )
    said: _Said = dict(found.said)
    thread = call.engine.coerce(fields["ut_id"], t.UT_ID, span)
    settings = replace(settings, thread=_number(call, thread, span, "`ut_id`", "thread_id", said))
    return replace(found, settings=settings, said=tuple(said.items()))


def config(call: Call, index: int) -> Config:
    """The settings of an operation, which are its argument `index`."""
    fields = call.fields(index, "the configuration of an operation", (*ASYNC, "priority", "ut_id", "index"))
    found = with_thread(call, index, fields, asynchronous(call, index, fields))
    if "index" not in fields:
        return found
    return replace(found, index=call.engine.coerce(fields["index"], t.U16, call.field_span(index, "index")))


NO_CONFIG = Config(ir.Settings())
