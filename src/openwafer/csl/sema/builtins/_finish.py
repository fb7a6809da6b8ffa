"""What builtins wrote down becomes part of the unit: tasks and exports once every comptime block has run, which asks for their
code; FIFOs and registers once that code is made, because a const that only code uses is made with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._facts import SymbolExport, TaskName
from openwafer.csl.sema._values import FunctionValue, MemoryPlace, Value, ValuePlace
from openwafer.csl.sema.builtins._automatic_queues import assign_queues
from openwafer.csl.sema.builtins._reserved import check_reserved
from openwafer.csl.sema.builtins._rotation import bind_alternates
from openwafer.csl.sema.builtins._tasks import TEARDOWN

if TYPE_CHECKING:
    from openwafer.csl.sema._engine import Engine


def finish(engine: Engine) -> None:
    """Fills the unit's tasks and exports. Errors are recorded in the engine."""
    resources, unit = engine.resources, engine.unit
    check_reserved(engine)
    _tasks(engine)
    for name, one in resources.exports.items():
        exported = _exported(engine, name, one)
        if exported is not None:
            unit.exports.append(exported)


def finish_registers(engine: Engine) -> None:
    """Fills the unit's FIFOs and configuration, and gives queues to DSDs without one."""
    assign_queues(engine)
    engine.unit.config[:] = sorted(engine.resources.config.items())
    _control_tables(engine)
    _check_activations(engine)
    for one in engine.resources.fifo_tasks:
        push, pop = _id(engine, one.push), _id(engine, one.pop)
        engine.unit.fifos.append(ir.BoundFifo(one.number, one.symbol, push, pop, one.empty, one.full))


def _control_tables(engine: Engine) -> None:
    """A control wavelet's id counts from where its queue's table begins."""
    queues, resources = engine.unit.queues, engine.resources
    for place, queue in enumerate(queues):
        if queue.direction == "output" or queue.number not in resources.control_tables:
            continue
        table, span = resources.control_tables[queue.number]
        offset = table * resources.control_stride
        if offset > 63:
            engine.report(
                span,
                f"control task table {table} begins at entry {offset}, there are 64",
                hint="use a smaller ctrl_table_id, or a smaller .stride in @set_control_task_table",
            )
        queues[place] = replace(queue, control_offset=offset)


def _check_activations(engine: Engine) -> None:
    bound = {one.id for one in engine.resources.bindings.values() if one.kind == "local"}
    if any(one.kind in ("teardown", "empty_queue") for one in engine.resources.bindings.values()):
        bound.add(TEARDOWN)
    for number, span in engine.resources.activations.items():
        if number not in bound:
            engine.report(
                span,
                f"no local task is bound to id {number}, which is activated here",
                hint=f"bind one in a comptime block: @bind_local_task(t, @get_local_task_id({number}))",
            )


def _tasks(engine: Engine) -> None:
    resources, unit = engine.resources, engine.unit
    states = dict(resources.states)
    rotations = bind_alternates(engine)
    for binding in resources.bindings.values():
        state = (
            None if binding.kind in ("control", "teardown", "empty_queue") else states.pop(binding.id, None)
        )
        made = engine.compiled(binding.function, binding.span)
        parameters = tuple(one.ir for one in made.type.parameters if one is not None and one.ir is not None)
        unit.tasks.append(
            ir.BoundTask(
                binding.kind,
                binding.id,
                made.name,
                parameters,
                active=state is not None and state.active,
                blocked=state is not None and state.blocked,
                rotation=rotations.get(binding.id) if binding.kind == "data" else None,
            )
        )
    for number, state in states.items():
        unit.tasks.append(ir.BoundTask("local", number, None, (), state.active, state.blocked))
    unit.tasks.sort(key=lambda one: (one.kind, one.id))


def _id(engine: Engine, task: int | TaskName | None) -> int | None:
    if not isinstance(task, TaskName):
        return task
    for binding in engine.resources.bindings.values():
        if binding.function is task.function and binding.kind == "local":
            return binding.id
    name = task.function.name
    engine.report(
        task.span,
        f"`{name}` is not bound as a local task",
        hint=f"bind it in a comptime block: @bind_local_task({name}, id)",
    )
    return None


def _exported(engine: Engine, name: str, one: SymbolExport) -> ir.Exported | None:
    place, kind = one.place, one.place.type
    if isinstance(place, ValuePlace) and isinstance(place.value.data, FunctionValue):
        made = engine.compiled(place.value.data, one.span)
        parameters = tuple(
            each.ir for each in made.type.parameters if each is not None and each.ir is not None
        )
        return ir.Exported(name, "function", function=made.name, parameters=parameters, type=str(kind))
    if isinstance(place, MemoryPlace) and isinstance(place.address, ir.Address):
        symbol = place.address.symbol
        if not isinstance(kind, t.Pointer):
            return ir.Exported(name, "variable", place.address, type=str(kind))
        first = engine.initial.get(symbol)
        return ir.Exported(name, "variable", _pointed(first), symbol, type=str(kind))
    if (
        isinstance(place, ValuePlace)
        and isinstance(kind, t.Pointer)
        and isinstance(place.value.data, ir.Address)
    ):
        return ir.Exported(name, "variable", place.value.data, type=str(kind))
    engine.report(
        one.span,
        f"`{name}` is nothing that the host could reach",
        hint="export a global variable, a pointer to one, or a function",
    )
    return None


def _pointed(value: Value | None) -> ir.Address | None:
    return value.data if value is not None and isinstance(value.data, ir.Address) else None
