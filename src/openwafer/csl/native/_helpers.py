"""LLVM functions that every module may use: what a jump, a check or a number needs each time, written once.

All are internal and inlined, so that a module's own functions stay close to the IR that they come from.
"""

from __future__ import annotations

from openwafer.artifact import _pe_abi as abi
from openwafer.csl.ir import VIEW

_CONFIG_BASE = 0xFE00  # byte address; from here on loads and stores go to configuration registers

_TYPES = {"u32": "i32", "i32": "i32", "u64": "i64", "ptr": "ptr", "f32": "float", "void": "void"}


def declarations() -> str:
    """Every function of the runtime."""
    lines = []
    for one in abi.RUNTIME:
        parameters = ", ".join(["ptr", *(_TYPES[kind] for kind in one.parameters)])
        attributes = (
            " cold noreturn"
            if one.name == "ow_trap"
            else " cold"
            if one.name in ("ow_poll", "ow_watch")
            else ""
        )
        lines.append(f"declare {_TYPES[one.result]} @{one.name}({parameters}){attributes}")
    return "\n".join(lines)


def helpers() -> str:
    """The definitions of all helpers; those that a module does not use are dropped by LLVM."""
    parts = [_ENTER, _BACK, _DIVISOR, _ELEMENT, _RANGE, _WATCH, _SINGLE, _ONCE]
    for bits in (8, 16, 32, 64):
        parts += [_load(bits), _store(bits)]
    return "\n".join(parts)


_ENTER = f"""
; the block's cost goes onto the clock
define internal void @enter(ptr %view, i64 %block) alwaysinline {{
  %costs_at = getelementptr inbounds i8, ptr %view, i64 {VIEW["costs"]}
  %costs = load ptr, ptr %costs_at, !invariant.load !0
  %cost_at = getelementptr inbounds i32, ptr %costs, i64 %block
  %cost = load i32, ptr %cost_at, !invariant.load !0
  %more = zext i32 %cost to i64
  %clock_at = getelementptr inbounds i8, ptr %view, i64 {VIEW["clock"]}
  %clock = load i64, ptr %clock_at
  %next = add i64 %clock, %more
  store i64 %next, ptr %clock_at
  ret void
}}"""

_BACK = f"""
; a jump backwards: without it a loop could never be interrupted
define internal void @back(ptr %view) alwaysinline {{
  %fuel_at = getelementptr inbounds i8, ptr %view, i64 {VIEW["fuel"]}
  %fuel = load i32, ptr %fuel_at
  %less = sub i32 %fuel, 1
  store i32 %less, ptr %fuel_at
  %empty = icmp slt i32 %less, 0
  br i1 %empty, label %poll, label %go
poll:
  call void @ow_poll(ptr %view)
  br label %go
go:
  ret void
}}"""

_DIVISOR = f"""
define internal void @divisor(ptr %view, i1 %is_zero, i32 %location) alwaysinline {{
  br i1 %is_zero, label %bad, label %good
bad:
  call void @ow_trap(ptr %view, i32 {int(abi.Trap.DIVISION)}, i32 %location, i64 0, i64 0)
  unreachable
good:
  ret void
}}"""

_ELEMENT = f"""
define internal void @element(ptr %view, i64 %index, i64 %count, i32 %location) alwaysinline {{
  %fits = icmp ult i64 %index, %count
  br i1 %fits, label %good, label %bad
bad:
  call void @ow_trap(ptr %view, i32 {int(abi.Trap.INDEX)}, i32 %location, i64 %index, i64 %count)
  unreachable
good:
  ret void
}}"""

_RANGE = f"""
; the host's address of bytes in the PE's memory that may lie outside it
define internal ptr @range(ptr %view, i16 %address, i32 %bytes, i32 %location) alwaysinline {{
  %first = zext i16 %address to i32
  %end = add i32 %first, %bytes
  %size_at = getelementptr inbounds i8, ptr %view, i64 {VIEW["memory_bytes"]}
  %size = load i32, ptr %size_at, !invariant.load !0
  %fits = icmp ule i32 %end, %size
  br i1 %fits, label %good, label %bad
bad:
  %wide_address = zext i16 %address to i64
  %wide_bytes = zext i32 %bytes to i64
  call void @ow_trap(ptr %view, i32 {int(abi.Trap.ADDRESS)}, i32 %location, i64 %wide_address, i64 %wide_bytes)
  unreachable
good:
  %at = call ptr @known(ptr %view, i16 %address)
  ret ptr %at
}}

define internal ptr @known(ptr %view, i16 %address) alwaysinline {{
  %memory_at = getelementptr inbounds i8, ptr %view, i64 {VIEW["memory"]}
  %memory = load ptr, ptr %memory_at, !invariant.load !0
  %offset = zext i16 %address to i64
  %at = getelementptr inbounds i8, ptr %memory, i64 %offset
  ret ptr %at
}}"""

_WATCH = f"""
; before a store: where a microthread still reads, the machine keeps what stands there until the store's cycle
define internal void @watch(ptr %view, i16 %address, i16 %bytes) alwaysinline {{
  %from_at = getelementptr inbounds i8, ptr %view, i64 {VIEW["watched_from"]}
  %from = load i16, ptr %from_at
  %count_at = getelementptr inbounds i8, ptr %view, i64 {VIEW["watched_bytes"]}
  %count = load i16, ptr %count_at
  %reach = sub i16 %bytes, 1
  %offset = sub i16 %address, %from
  %last = add i16 %offset, %reach
  %end = add i16 %count, %reach
  %hit = icmp ult i16 %last, %end
  br i1 %hit, label %keep, label %go
keep:
  %wide_address = zext i16 %address to i32
  %wide_bytes = zext i16 %bytes to i32
  call void @ow_watch(ptr %view, i32 %wide_address, i32 %wide_bytes)
  br label %go
go:
  ret void
}}"""

_SINGLE = """
; processors differ in the NaN that arithmetic gives; here it is always the same
define internal float @single(float %value) alwaysinline {
  %nan = fcmp uno float %value, 0.0
  %bits = bitcast float %value to i32
  %same = select i1 %nan, i32 2143289344, i32 %bits
  %result = bitcast i32 %same to float
  ret float %result
}"""

_ONCE = """
; a double as a float that rounds to 16 bits as the double would: rounded to odd, so that nothing looks like a tie
define internal float @once(double %value) alwaysinline {
  %near = fptrunc double %value to float
  %back = fpext float %near to double
  %exact = fcmp ueq double %back, %value
  %near_size = call double @llvm.fabs.f64(double %back)
  %size = call double @llvm.fabs.f64(double %value)
  %above = fcmp ogt double %near_size, %size
  %step = zext i1 %above to i32
  %bits = bitcast float %near to i32
  %towards_zero = sub i32 %bits, %step
  %odd = or i32 %towards_zero, 1
  %chosen = select i1 %exact, i32 %bits, i32 %odd
  %result = bitcast i32 %chosen to float
  ret float %result
}
declare double @llvm.fabs.f64(double)"""


def _load(bits: int) -> str:
    """An unknown address: memory, or configuration registers of 16 bits each."""
    kind = f"i{bits}"
    words = max(1, bits // 16)
    read = f"  %whole0 = add {kind} 0, 0\n"
    for word in range(words):
        read += f"""  %word{word} = add i32 %first_word, {word}
  %bits{word} = call i32 @ow_config_read(ptr %view, i32 %word{word})
  %low{word} = and i32 %bits{word}, 65535
  %part{word} = {_resize("i32", kind)} i32 %low{word} to {kind}
  %moved{word} = shl {kind} %part{word}, {16 * word if bits > 16 else 0}
  %whole{word + 1} = or {kind} %whole{word}, %moved{word}
"""
    return f"""
define internal {kind} @load{bits}(ptr %view, i16 %address, i32 %location) alwaysinline {{
  %register = icmp uge i16 %address, {_CONFIG_BASE}
  br i1 %register, label %config, label %memory
config:
  %wide = zext i16 %address to i32
  %first_word = lshr i32 %wide, 1
{read}  ret {kind} %whole{words}
memory:
  %at = call ptr @range(ptr %view, i16 %address, i32 {bits // 8}, i32 %location)
  %value = load {kind}, ptr %at, align 1
  ret {kind} %value
}}"""


def _store(bits: int) -> str:
    kind = f"i{bits}"
    write = ""
    for word in range(max(1, bits // 16)):
        write += f"""  %word{word} = add i32 %first_word, {word}
  %moved{word} = lshr {kind} %value, {16 * word if bits > 16 else 0}
  %part{word} = {_resize(kind, "i32")} {kind} %moved{word} to i32
  %low{word} = and i32 %part{word}, 65535
  call void @ow_config_write(ptr %view, i32 %word{word}, i32 %low{word})
"""
    return f"""
define internal void @store{bits}(ptr %view, i16 %address, {kind} %value, i32 %location) alwaysinline {{
  %register = icmp uge i16 %address, {_CONFIG_BASE}
  br i1 %register, label %config, label %memory
config:
  %wide = zext i16 %address to i32
  %first_word = lshr i32 %wide, 1
{write}  ret void
memory:
  %at = call ptr @range(ptr %view, i16 %address, i32 {bits // 8}, i32 %location)
  call void @watch(ptr %view, i16 %address, i16 {bits // 8})
  store {kind} %value, ptr %at, align 1
  ret void
}}"""


def _resize(source: str, target: str) -> str:
    """The cast between two integer types of LLVM."""
    wide = int(target[1:]) - int(source[1:])
    return "zext" if wide > 0 else "trunc" if wide < 0 else "bitcast"
