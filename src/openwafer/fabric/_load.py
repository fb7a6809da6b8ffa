"""An Image onto the native machine: programs, tiles, routes, ports."""

from __future__ import annotations

from collections.abc import Sequence

from openwafer.artifact import _image as image
from openwafer.artifact import _pe_abi as abi
from openwafer.base import InputError
from openwafer.fabric import _native
from openwafer.fabric._timing import Timing

SIDES = ("WEST", "EAST", "SOUTH", "NORTH", "RAMP")
_KINDS = ("data", "local", "control", "teardown", "empty_queue")
_POPS = ("no_pop", "always_pop", "pop_on_advance", "pop_on_advance_nop")
_FIFO_ACTIONS = ("test_or_suspend", "terminate", "suspend", "fault")
_FILTERS = ("counter", "sparse_counter", "range")
_FILES = {
    "dest": abi.OperandKind.DSR_DEST,
    "src0": abi.OperandKind.DSR_SRC0,
    "src1": abi.OperandKind.DSR_SRC1,
}
_HALVES = {"f16", "bf16", "cb16", "i16", "u16", "i8", "u8", "bool"}
_NONE, _WORD, _HALF, _PAIR = range(4)


def load_machine(
    loaded: image.Image, timing: Timing, entries: Sequence[Sequence[int]], jitter: int = 0
) -> _native.NativeMachine:
    """A native machine with everything of the image on it; `entries` are the addresses of each code's entries.

    jitter: see `Machine`.
    Raises InputError where the image contradicts itself or the machine.
    """
    machine = _native.NativeMachine(
        width=loaded.fabric[0],
        height=loaded.fabric[1],
        left=loaded.offset[0],
        top=loaded.offset[1],
        columns=loaded.rectangle[0],
        rows=loaded.rectangle[1],
        wse3=loaded.architecture == "wse3",
        color_swap=loaded.architecture == "wse2",
        timing=timing.native(),
        jitter=jitter,
    )
    for color, direction in loaded.streams.items():
        machine.set_stream(color, direction == "in")
    costs = [
        [timing.block_cycles(counts, "the program's code") for counts in code.blocks] for code in loaded.codes
    ]
    numbers = [
        machine.add_program(
            _program(program, loaded.codes[program.code], entries[program.code], costs[program.code], timing)
        )
        for program in loaded.programs
    ]
    for tile in loaded.tiles:
        if tile.program is not None:
            machine.place(tile.x, tile.y, numbers[tile.program])
        for color, route in tile.routes.items():  # in their order: it numbers the filters
            _configure(machine, tile.x, tile.y, color, route)
    return machine


def _program(
    program: image.Program, code: image.Code, entries: Sequence[int], costs: list[int], timing: Timing
) -> _native.NativeProgram:
    native = _native.NativeProgram.make(
        name=program.name,
        entries=list(entries),
        entry_names=list(code.entries),
        frame_bytes=code.frame_bytes,
        memory=program.memory,
        memory_bytes=program.memory_bytes,
        costs=costs,
        constants=list(program.constants),
        strings=list(program.strings),
        locations=list(program.locations),
        half=int(abi.HalfFormat[program.half.upper()]),
        descriptors=_descriptors(program),
    )
    for task in program.tasks:
        _bind(native, program, task)
    for queue in program.queues:
        depths = timing.entries[f"queues.{queue.direction}_depth"].values
        if not 0 <= queue.number < len(depths):
            raise InputError(
                f"{program.name} initialises {queue.direction} queue {queue.number}, but {timing.architecture} has "
                f"{len(depths)} of them, from 0"
            )
        native.add_queue(
            queue.direction == "input", queue.number, queue.color, queue.priority, queue.control_offset
        )
    for fifo in program.fifos:
        push = -1 if fifo.activate_push is None else fifo.activate_push
        pop = -1 if fifo.activate_pop is None else fifo.activate_pop
        actions = (_FIFO_ACTIONS.index(fifo.empty), _FIFO_ACTIONS.index(fifo.full))
        native.add_fifo(fifo.number, fifo.address, fifo.bytes, push, pop, *actions)
    for preload in program.preloads:
        native.preload(int(_FILES[preload.file]), preload.number, preload.descriptor, preload.vector)
    for blocked in program.blocked:
        native.block(blocked.target, blocked.id)
    for opened in program.opened:
        native.open(opened.id)
    for address, value in program.config:
        native.set_register(address, value)
    return native


def _descriptors(program: image.Program) -> list[tuple[int, str, str]]:
    """Address and name of each variable that holds a DSD, and the array before it: who writes too far hits the DSD."""
    found, array = [], ""
    for symbol in sorted(program.symbols, key=lambda one: one.address):
        if symbol.type.endswith("_dsd"):
            found.append((symbol.address, symbol.name, array))
        elif symbol.type.startswith("[") and not symbol.type.startswith("[*]"):
            array = f"{symbol.name} ({symbol.type})"
    return found


def _bind(native: _native.NativeProgram, program: image.Program, task: image.Task) -> None:
    most = {"data": 32, "local": 32, "control": 64, "teardown": 24, "empty_queue": 16}[task.kind]
    if not (0 <= task.id < most or (task.kind == "teardown" and task.id == -1)):
        raise InputError(
            f"{program.name} binds {task.kind} task {task.name!r} to id {task.id}; ids are 0 to {most - 1}"
        )
    native.bind_task(
        kind=_KINDS.index(task.kind),
        id=task.id,
        entry=-1 if task.entry is None else task.entry,
        parameters=_parameters(program, task),
        active=task.active,
        blocked=task.blocked,
        high=task.priority == "high",
        name=task.name,
    )
    if task.rotation is not None:
        native.rotate(task.id, *task.rotation)


def _parameters(program: image.Program, task: image.Task) -> int:
    match [one in _HALVES for one in task.parameters]:
        case []:
            return _NONE
        case [False]:
            return _WORD
        case [True]:
            return _HALF
        case [True, True]:
            return _PAIR
    raise InputError(
        f"{program.name}: task {task.name!r} takes ({', '.join(task.parameters)}), but a wavelet is one 32-bit value, "
        "one 16-bit value, or a 16-bit value and its 16-bit index"
    )


def _mask(sides: Sequence[image.Direction]) -> int:
    return sum(1 << SIDES.index(side) for side in set(sides))


def _configure(machine: _native.NativeMachine, x: int, y: int, color: int, route: image.Route) -> None:
    if not 0 <= color < 24:
        raise InputError(f"tile ({x}, {y}) has a route for color {color}; routes are for colors 0 to 23")
    positions = [
        (
            position.invalid,
            -1 if position.rx is None else _mask(position.rx),
            -1 if position.tx is None else _mask(position.tx),
        )
        for position in route.positions
    ]
    machine.configure(
        x,
        y,
        color,
        _mask(route.rx),
        _mask(route.tx),
        positions,
        route.position,
        route.ring,
        _POPS.index(route.pop),
        route.teardown,
        route.swap_x,
        route.swap_y,
        route.messages,
    )
    if route.filter is not None:
        one = route.filter
        machine.set_filter(
            x,
            y,
            color,
            1 + _FILTERS.index(one.kind),
            one.count_data,
            one.count_control,
            one.initial,
            one.limit1,
            -1 if one.limit2 is None else one.limit2,
            one.minimum,
            one.maximum,
            one.control_only,
        )
