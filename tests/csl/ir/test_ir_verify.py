"""Every rule of PE-IR has a message."""

from __future__ import annotations

import pytest
from ir_text import unit_of

from openwafer.base import CslError
from openwafer.csl import ir


def function(*lines: str, head: str = "%a: i16) void", local: str = "") -> str:
    body = "\n".join(lines)
    return f'symbol @x: 8 align 2 "u64"\nfn main({head} {{\n{local}\n^0:\n{body}\n}}'


CASES = [
    (function("return %0"), "it uses %0, a temporary that is not assigned before"),
    (function("set %b, i16 1", "return"), "there is no local %b"),
    (function("set %a, u16 1", "return"), "expected an operand of type i16, found u16"),
    (function("set %a, %0", "return"), "it uses %0, a temporary that is not assigned before"),
    (function("%0 = get %a", "%0 = get %a", "return"), "%0 is assigned a second time"),
    (function("%0 = get %a", "jump ^1", "^1:", "set %a, %0", "return"), "%0, a temporary of another block"),
    (function("set %a, i16 40000", "return"), "40000 is out of range for i16"),
    (function("%0 = frame %a", "return"), "lies in a register and has no address"),
    (function("call f()", "return"), "there is no function f"),
    (function("call main()", "return"), "it takes 1 operands, found 0"),
    (function("call main(i16 1)", "return"), "function main calls itself (main -> main)"),
    (function("machine f()", "return"), "there is no machine operation f"),
    (function("%0 = machine activate(u16 1)", "return"), "it gives nothing that could be assigned"),
    (function("vector fadd dsd dsd mem1d(base 0)", "return"), "there is no vector operation fadd"),
    (function("vector fadds pointer @y+0", "return"), "there is no symbol @y"),
    (function("vector fadds scalar u64 u64 1", "return"), "type u64 is not possible here"),
    (function("vector fadds pointer @x+0 [end activate chair 1]", "return"), "activate chair is no action"),
    (function("%0 = rem f32 f32 1, f32 2", "return"), "type f32 is not possible here"),
    (function("%0 = neg i16 i16 1, i16 2", "return"), "it takes 1 operands, found 2"),
    (function("%0 = bitcast i16 i16 1 to f32", "return"), "i16 and f32 do not have the same size"),
    (function("copy @x+0, @x+0, 4 !7", "return"), "location 7 is not in the unit's table of 2"),
    ("fn f() void !7 {\n^0:\n  return\n}\n", "function f: location 7 is not in the unit's table of 2"),
    (function("jump ^4"), "block ^0, at its end: there is no block ^4"),
    (function("halt chair"), "there is no trap chair"),
    (function("choose i16 i16 1 [1: ^0, 1: ^0] else ^0"), "two cases have the same value"),
    (function("return", head="%a: dsd) void"), "entry main takes a dsd"),
    (
        function("return", head=", ".join(f"%a{i}: u64" for i in range(17)) + ") void"),
        "takes 34 words of arguments",
    ),
    (function("return", head="%a: i16) i16"), "a function that gives i16 returns None"),
    (function("return", local="local %s: stack(4) align 3"), "alignment 3, which is no power of two"),
    ('symbol @x: 2 align 2 "u16" at 1 @x+0', "has 2 bytes, but a pointer at byte 1"),
    ('symbol @x: 2 align 2 "u16" = hex "010203"', "has 2 bytes, but its first value has 3"),
    ('symbol @x: 2 align 2 "u16" at 0 @y+0', "symbol @x names @y, which is no symbol"),
    ("task data 3 = f(i16)", "data task 3 names f, which is no function"),
    (
        function("return") + "\ntask data 3 = main(u16)",
        "data task 3 takes (u16), but function main takes (i16)",
    ),
    ("fifo 0 @y", "fifo 0 names @y"),
    ('export variable "v" "*i16"', 'export "v" is a variable, but names no address'),
    (
        function("return") + '\nexport function "f" "fn" function main',
        "takes (), but function main takes (i16)",
    ),
    ("preload dsr dest 1 = %0", "needs a known descriptor"),
    ("blocked chair 3", "chair cannot be blocked"),
]


@pytest.mark.parametrize(("text", "message"), CASES)
def test_a_broken_rule_is_named_with_its_place(text: str, message: str) -> None:
    """A front end that breaks a rule should learn it here, and not from wrong numbers of a program."""
    with pytest.raises(CslError) as caught:
        ir.verify(unit_of(text))
    assert message in str(caught.value)
    assert str(caught.value).startswith(("PE-IR", "function"))
