"""Registers beside DSRs: XDSRs and stride registers, which dialect 2.10 names for DSDs of more than a DSR's worth.

The machine keeps a whole descriptor in a DSR, so XDSRs and SRs only have to be there, and to be as many as documented.
Source: "Data Structure Registers" of the SDK documentation 2.10.
"""

from __future__ import annotations

from dataclasses import replace

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._records import register_kind
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._descriptors import element_words
from openwafer.csl.sema.builtins._ids import limits, numbered
from openwafer.csl.sema.builtins._operations import FILES, dsr_argument, load_register
from openwafer.csl.sema.builtins._settings import NO_CONFIG, flag

_MOST_STRIDES = 3


@builtin("get_sr", 1, dialects=("2.10",))
def get_sr(call: Call) -> Value:
    """`@get_sr(4)`."""
    return numbered(call, 0, t.SR, limits(call).srs, "SR", runtime=False)


def _xdsr(call: Call) -> None:
    found = call.known(1, "an XDSR", t.XDSR)
    owner = call.engine.resources.fifo_registers.get(("xdsr", int(found.data)))
    if owner is not None:
        call.error(call.span_of(1), f"xdsr {found.data} belongs to a FIFO", hint="use another one")


def _extended(call: Call, kind: t.Primitive, index: int) -> Value:
    """Loads the DSD that is argument `index`; its settings may follow."""
    register = dsr_argument(call)
    _xdsr(call)
    dsd = call.value(index)
    if dsd.type is not kind:
        call.error(
            call.span_of(index), f"what @{call.name} loads", expected=f"a `{kind}`", found=f"`{dsd.type}`"
        )
    saves = steps = False
    if len(call) > index + 1:
        fields = call.fields(index + 1, "the configuration of a DSR", ("save_address", "single_step"))
        saves, steps = (flag(call, fields, index + 1, name) for name in ("save_address", "single_step"))
    return load_register(call, register, index, NO_CONFIG, saves, steps)


@builtin("load_to_dsr_xdsr", 3, 4, dialects=("2.10",))
def load_to_dsr_xdsr(call: Call) -> Value:
    """Puts a circular buffer into a DSR and an XDSR."""
    return _extended(call, t.CIRCBUF_DSD, 2)


@builtin("load_to_dsr_xdsr_sr", 4, 5, dialects=("2.10",))
def load_to_dsr_xdsr_sr(call: Call) -> Value:
    """Puts a mem4d_dsd into a DSR, an XDSR and as many stride registers as its dimensions need."""
    given = call.known(2, "the stride registers")
    if (
        not isinstance(given.type, t.Record)
        or given.type.names
        or any(one is not t.SR for one in given.type.types)
    ):
        call.error(
            call.span_of(2), "stride registers", expected="a tuple `.{ sr, ... }`", found=f"`{given.type}`"
        )
    dsd = call.value(3)
    if dsd.type is t.MEM4D_DSD:
        needed = _strides(dsd.data) if dsd.known else _MOST_STRIDES
        if len(given.type.types) != needed:
            why = "" if dsd.known else "; one that only running code knows needs all of them"
            call.error(
                call.span_of(2),
                f"this mem4d_dsd needs {needed} stride register{'s' * (needed != 1)}, found {len(given.type.types)}{why}",
                hint="name exactly as many: .{}" if needed == 0 else "name exactly as many, from @get_sr",
            )
    return _extended(call, t.MEM4D_DSD, 3)


def _strides(dsd: ir.Descriptor) -> int:
    """The innermost dimension needs no register, nor the next one where the innermost stride is 1."""
    unused = 0
    while unused < 3 and dsd.extents[unused] == 1 and dsd.strides[unused] == 0:
        unused += 1
    outer = _MOST_STRIDES - unused
    return max(outer - 1, 0) if dsd.strides[3] == 1 else outer


@builtin("set_dsr_base_addr", 2)
def set_dsr_base_addr(call: Call) -> Value:
    """The memory DSD that a register holds begins at another tensor; it stays in the register."""
    register = dsr_argument(call)
    place = call.place(1)
    pointer = call.load(place) if isinstance(place.type, t.Pointer) else call.address(place)
    element_words(call, pointer, call.span_of(1))
    file: ir.Register = ir.Register(FILES[register.type], register.data)  # type: ignore[arg-type, index]
    if not call.comptime:
        kind, number = (ir.Number("u16", one) for one in (register_kind(file), register.data))
        return call.machine("set_dsr_base", kind, number, call.operand(pointer))
    for at, one in enumerate(call.unit.preloads):
        made = one.descriptor
        if (
            one.register == file
            and isinstance(made, ir.Descriptor)
            and made.kind in ("mem1d", "mem4d", "circbuf")
        ):
            base = call.engine.require_known(pointer, call.span_of(1), "the address of a tensor").data
            call.unit.preloads[at] = replace(one, descriptor=replace(made, base=base))
            return v.NOTHING
    call.error(
        call.span_of(0), "this register holds no memory DSD yet", hint="load one first with @load_to_dsr"
    )
