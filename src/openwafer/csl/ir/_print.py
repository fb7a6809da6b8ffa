"""PE-IR as text, which `parse_unit` reads back. Places in the source stand behind an instruction as `!3`."""

from __future__ import annotations

import json
import re

from openwafer.csl.ir import _ir as ir

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*\Z")

_DESCRIPTOR_FIELDS = (
    "length", "stride", "color", "queue", "flags", "index", "priority", "simd", "control_transform", "zero",
    "extents", "strides",
)  # fmt: skip


def print_unit(unit: ir.Unit) -> str:
    """The unit as text."""
    lines = [f"unit {_string(unit.name)} {unit.architecture} {unit.half}"]
    lines += [f"string {_string(text)}" for text in unit.strings]
    lines += [f"location {_string(file)} {line} {column}" for file, line, column in unit.locations]
    lines += [_symbol(one) for one in unit.symbols.values()]
    for function in unit.functions.values():
        lines += _function(function)
    lines += [_task(one) for one in unit.tasks]
    for queue in unit.queues:
        priority = f" priority {queue.priority}" if queue.priority else ""
        priority += f" control_offset {queue.control_offset}" if queue.control_offset else ""
        lines.append(
            f"queue {queue.direction} {queue.number} color {queue.color}{priority}{_place(queue.location)}"
        )
    for fifo in unit.fifos:
        push = "" if fifo.activate_push is None else f" activate_push {fifo.activate_push}"
        pop = "" if fifo.activate_pop is None else f" activate_pop {fifo.activate_pop}"
        actions = "".join(
            f" {when} {action}"
            for when, action in (("empty", fifo.empty), ("full", fifo.full))
            if action != "test_or_suspend"
        )
        lines.append(f"fifo {fifo.number} @{_name(fifo.symbol)}{push}{pop}{actions}")
    lines += [f"preload {print_instruction(one)}" for one in unit.preloads]
    lines += [f"blocked {target} {number}" for target, number in unit.blocked]
    lines += [f"opened {target} {number}" for target, number in unit.opened]
    lines += [f"config {address} = {value}" for address, value in unit.config]
    lines += [_export(one) for one in unit.exports]
    return "\n".join(lines) + "\n"


def print_instruction(one: ir.Instruction) -> str:
    """One instruction as text."""
    return _body(one) + _place(one.location)


def _name(name: str) -> str:
    return name if _PLAIN.match(name) and name != "inf" else _string(name)


def _string(text: str) -> str:
    return json.dumps(text)


def _place(location: int) -> str:
    return f" !{location}" if location else ""


def _symbol(one: ir.Variable) -> str:
    text = f"symbol @{_name(one.name)}: {one.bytes} align {one.align} {_string(one.type)}"
    if one.value:
        text += f" = hex {_string(one.value.hex())}"
    for relocation in one.relocations:
        text += f" at {relocation.at} @{_name(relocation.symbol)}+{relocation.offset}"
    return text + (f" exported {_string(one.exported)}" if one.exported else "")


def _function(function: ir.Function) -> list[str]:
    parameters = ", ".join(f"%{_name(name)}: {function.locals[name].type}" for name in function.parameters)
    head = f"fn {_name(function.name)}({parameters}) {function.result}{_place(function.location)}"
    lines = [head + " {"]
    for name, local in function.locals.items():
        if name not in function.parameters:
            kind = f"stack({local.bytes}) align {local.align}" if local.bytes else local.type
            lines.append(f"  local %{_name(name)}: {kind}")
    for number, block in enumerate(function.blocks):
        lines.append(f"^{number}:")
        lines += ["  " + print_instruction(one) for one in block.instructions]
        if block.terminator is not None:
            lines.append("  " + _terminator(block.terminator))
    return [*lines, "}"]


def _task(one: ir.BoundTask) -> str:
    text = f"task {one.kind} {one.id}"
    if one.function is not None:
        text += f" = {_name(one.function)}({', '.join(one.parameters)})"
    text += " active" if one.active else ""
    text += " blocked" if one.blocked else ""
    text += " priority high" if one.priority == "high" else ""
    return text + (" rotation {} {} {}".format(*one.rotation) if one.rotation is not None else "")


def _export(one: ir.Exported) -> str:
    text = f"export {one.kind} {_string(one.name)} {_string(one.type)}"
    if one.address is not None:
        text += f" = {_operand(one.address)}"
    if one.pointer is not None:
        text += f" pointer @{_name(one.pointer)}"
    if one.function is not None:
        text += f" function {_name(one.function)}"
    return text + (f" takes {', '.join(one.parameters)}" if one.parameters else "")


def _operand(operand: ir.Operand | ir.Register) -> str:
    match operand:
        case ir.Temporary():
            return f"%{operand.number}"
        case ir.Number():
            return f"{operand.type} {operand.value}"
        case ir.Address():
            return f"@{_name(operand.symbol)}+{operand.offset}"
        case ir.Constant():
            return f"const {operand.type} {operand.slot}"
        case ir.Register():
            return f"{operand.file} {operand.number}"
        case ir.Descriptor():
            return _descriptor(operand)


def _descriptor(one: ir.Descriptor) -> str:
    base = _operand(one.base) if isinstance(one.base, ir.Address) else str(one.base)
    parts = [f"base {base}"]
    plain = ir.Descriptor(one.kind)
    for field in _DESCRIPTOR_FIELDS:
        value = getattr(one, field)
        if value != getattr(plain, field):
            shown = " x ".join(map(str, value)) if isinstance(value, tuple) else value
            parts.append(f"{field} {shown}")
    return f"dsd {one.kind}({', '.join(parts)})"


def _vector_operand(one: ir.VectorOperand) -> str:
    kind = f" {one.type}" if one.kind == "scalar" else ""
    return f"{one.kind}{kind} {_operand(one.value)}"


def _settings(settings: ir.Settings) -> str:
    parts = ["async"] if settings.asynchronous else []
    if settings.thread is not None:
        parts.append(f"thread {settings.thread}")
    if settings.priority:
        parts.append(f"priority {settings.priority}")
    if settings.end:
        parts.append("end {} {} {}".format(*settings.end))
    if settings.unblock:
        parts.append("unblock {} {}".format(*settings.unblock))
    if settings.control:
        parts.append("control {} {} {}".format(*settings.control))
    return f" [{', '.join(parts)}]" if parts else ""


def _list(operands: tuple[ir.Operand, ...]) -> str:
    return ", ".join(map(_operand, operands))


def _known(known: bool) -> str:
    return " known" if known else ""


def _body(one: ir.Instruction) -> str:
    match one:
        case ir.Compute():
            return f"%{one.result} = {one.operation} {one.type} {_list(one.operands)}"
        case ir.Compare():
            return f"%{one.result} = {one.comparison} {one.type} {_operand(one.left)}, {_operand(one.right)}"
        case ir.Convert():
            return f"%{one.result} = convert {one.source} {_operand(one.operand)} to {one.target}"
        case ir.Bitcast():
            return f"%{one.result} = bitcast {one.source} {_operand(one.operand)} to {one.target}"
        case ir.Get():
            return f"%{one.result} = get %{_name(one.local)}"
        case ir.Set():
            return f"set %{_name(one.local)}, {_operand(one.value)}"
        case ir.Frame():
            return f"%{one.result} = frame %{_name(one.local)}"
        case ir.Element():
            count = "*" if one.count is None else one.count
            index = f"{one.index_type} {_operand(one.index)}"
            return f"%{one.result} = element {_operand(one.base)}, {index} of {count} x {one.bytes} {_string(one.name)}"
        case ir.Offset():
            return f"%{one.result} = offset {_operand(one.base)} + {one.bytes}"
        case ir.Load():
            return f"%{one.result} = load {one.type} {_operand(one.address)}{_known(one.known)}"
        case ir.Store():
            return f"store {one.type} {_operand(one.address)}, {_operand(one.value)}{_known(one.known)}"
        case ir.Copy():
            return f"copy {_operand(one.target)}, {_operand(one.source)}, {one.bytes}"
        case ir.Invoke():
            result = "" if one.result is None else f"%{one.result} = "
            return f"{result}call {_name(one.function)}({_list(one.arguments)})"
        case ir.Machine():
            result = "" if one.result is None else f"%{one.result} = "
            return f"{result}machine {one.name}({_list(one.operands)})"
        case ir.EditDsd():
            return f"%{one.result} = edit {one.field} {_operand(one.descriptor)}, {_operand(one.value)}"
        case ir.Vector():
            return f"vector {one.operation} {', '.join(map(_vector_operand, one.operands))}{_settings(one.settings)}"
        case ir.LoadDsr():
            marks = (" save" if one.save_address else "") + (" single" if one.single_step else "")
            return (
                f"dsr {_operand(one.register)} = {_operand(one.descriptor)}{_settings(one.settings)}{marks}"
            )
        case ir.MapBegin():
            parts = zip(one.operands, one.modes, one.types, strict=True)
            return "map " + ", ".join(
                f"{_vector_operand(value)} {mode} {kind}" for value, mode, kind in parts
            )
        case ir.MapNext():
            return f"%{one.result} = map_next"
        case ir.MapRead():
            return f"%{one.result} = map_read {one.operand} {one.type}"
        case ir.MapWrite():
            return f"map_write {one.operand} {one.type} {_operand(one.value)}"


def _terminator(end: ir.Terminator) -> str:
    match end:
        case ir.Jump():
            return f"jump ^{end.block}"
        case ir.Branch():
            return f"branch {_operand(end.condition)}, ^{end.then}, ^{end.otherwise}"
        case ir.Choose():
            cases = ", ".join(f"{value}: ^{block}" for value, block in end.cases)
            return f"choose {end.type} {_operand(end.value)} [{cases}] else ^{end.otherwise}"
        case ir.Return():
            return "return" if end.value is None else f"return {_operand(end.value)}"
        case ir.Halt():
            numbers = f" ({end.numbers[0]}, {end.numbers[1]})" if any(end.numbers) else ""
            return f"halt {end.kind}{numbers}{_place(end.location)}"
