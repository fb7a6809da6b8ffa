"""Units become the programs and codes of an Image: verified, linked, shared, and equal ones kept once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from openwafer.artifact import _image as image
from openwafer.artifact import _pe_abi as abi
from openwafer.csl import ir
from openwafer.csl.native import emit

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Assembly(Generic[Key]):
    """Programs and codes as an Image holds them."""

    program_of: dict[Key, int]
    """The program of each unit."""
    programs: tuple[image.Program, ...]
    codes: tuple[image.Code, ...]


def assemble(units: Mapping[Key, ir.Unit]) -> Assembly[Key]:
    """Programs for units by any keys, such as tiles; units that come out equal share one program.

    Raises CslError if a unit needs more memory than a PE has.
    """
    keys = list(units)
    lowered = [ir.stack_calls(ir.loop_tail_calls(units[key])) for key in keys]
    linked = [(unit, link_verified(unit)) for unit in lowered]
    codes: list[image.Code] = []
    programs: list[image.Program] = []
    numbers: dict[bytes, int] = {}
    program_of: dict[Key, int] = {}
    for group in ir.share(linked):
        code = len(codes)
        codes.append(make_code(group.unit))
        for member, constants in zip(group.members, group.constants, strict=True):
            program = _program(*linked[member], code, constants)
            number = numbers.setdefault(msgspec.msgpack.encode(program), len(programs))
            if number == len(programs):
                programs.append(program)
            program_of[keys[member]] = number
    return Assembly({key: program_of[key] for key in keys}, tuple(programs), tuple(codes))


def link_verified(unit: ir.Unit) -> ir.Linked:
    """Checks a unit, then places its symbols.

    Raises CslError.
    """
    ir.verify(unit)
    return ir.link(unit)


def make_code(unit: ir.Unit) -> image.Code:
    """The Code of a resolved unit."""
    native = emit(unit)
    return image.Code(
        ir=ir.print_unit(unit),
        llvm=native.llvm,
        entries=ir.entries(unit),
        places=tuple(unit.functions[name].location for name in ir.entries(unit)),
        frame_bytes=native.frame_bytes,
        blocks=ir.unit_costs(unit),
    )


def _program(unit: ir.Unit, linked: ir.Linked, code: int, constants: tuple[int, ...]) -> image.Program:
    entry = {name: number for number, name in enumerate(ir.entries(unit))}
    addresses = linked.addresses
    variables = [one for one in unit.exports if one.kind == "variable"]
    return image.Program(
        name=unit.name,
        code=code,
        constants=constants,
        half=unit.half,
        memory=ir.memory_image(unit, linked),
        memory_bytes=linked.end,
        symbols=tuple(
            image.Symbol(one.name, addresses[one.name], one.bytes, one.type, max(2, one.align))
            for one in unit.symbols.values()
        ),
        tasks=tuple(_task(one, entry) for one in unit.tasks),
        queues=tuple(
            image.Queue(one.direction, one.number, one.color, one.priority, one.location, one.control_offset)
            for one in unit.queues
        ),
        fifos=tuple(
            image.Fifo(
                one.number,
                addresses[one.symbol],
                unit.symbols[one.symbol].bytes,
                one.activate_push,
                one.activate_pop,
                one.empty,
                one.full,
            )
            for one in unit.fifos
        ),
        preloads=tuple(_preload(one, addresses) for one in unit.preloads),
        opened=tuple(
            image.Blocked(int(abi.Target[target.upper()]), number) for target, number in unit.opened
        ),
        blocked=tuple(
            image.Blocked(int(abi.Target[target.upper()]), number) for target, number in unit.blocked
        ),
        config=tuple(unit.config),
        variables={
            one.name: addresses[one.address.symbol] + one.address.offset
            for one in variables
            if one.address is not None
        },
        pointers={one.name: addresses[one.pointer] for one in variables if one.pointer is not None},
        functions={one.name: entry[one.function] for one in unit.exports if one.function is not None},
        strings=tuple(unit.strings),
        locations=tuple(unit.locations),
    )


def _task(one: ir.BoundTask, entry: Mapping[str, int]) -> image.Task:
    return image.Task(
        kind=one.kind,
        id=one.id,
        entry=None if one.function is None else entry[one.function],
        parameters=one.parameters,
        active=one.active,
        blocked=one.blocked,
        priority=one.priority,
        name=one.function or "",
        rotation=one.rotation,
    )


def _preload(one: ir.LoadDsr, addresses: Mapping[str, int]) -> image.Preload:
    assert isinstance(one.descriptor, ir.Descriptor)
    return image.Preload(
        file=one.register.file,
        number=one.register.number,
        descriptor=ir.pack_descriptor(one.descriptor, addresses, ir.dsr_flags(one)),
        vector=ir.pack_vector(None, 0, one.settings, one.location),
    )
