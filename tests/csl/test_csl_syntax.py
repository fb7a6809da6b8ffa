"""Text in, tree out: every construct of the language, one case each."""

from __future__ import annotations

import pytest
from csl_cases import message, short, tree

from openwafer.csl.syntax import print_file

EXPRESSIONS = [
    # literals
    ("0x1F_ff", "0x1F_ff"),
    ("1.5e-3", "1.5e-3"),
    ("0x1.8p3", "0x1.8p3"),
    (r'"a\n\x00\u{1f44d}"', r'"a\n\x00\u{1f44d}"'),
    ("'a'", "'a'"),
    ("true", "true"),
    # precedence: bits bind tighter than comparisons, products than sums, prefixes than all
    ("a + b * c - d", "(- (+ a (* b c)) d)"),
    ("a & b == c", "(== (& a b) c)"),
    ("a << b + c", "(<< a (+ b c))"),
    ("a == b and c or d", "(or (and (== a b) c) d)"),
    ("(a or b) and !c", "(and (or a b) (! c))"),
    ("-a.b * ~c", "(* (- (member a b)) (~ c))"),
    ("0x1e-5", "(- 0x1e 5)"),
    # behind an operand
    ("a.b.*[i, j](x)", "(call (index (dereference (member a b)) [i j]) [x])"),
    ("&a[0]", "(& (index a [0]))"),
    ("m.layout", "(member m layout)"),
    ("@as(u16, x)", "(builtin as [u16 x])"),
    # aggregates
    (".{}", "(aggregate [])"),
    (".{ .a = 1, .b = .{ x, y }, }", "(aggregate [(fieldvalue a 1) (fieldvalue b (aggregate [x y]))])"),
    ("[4]i16 {1, 2, 3, 4}", "(aggregate (arraytype [4] i16) [1 2 3 4])"),
    ("m.complex { .re = 1.0 }", "(aggregate (member m complex) [(fieldvalue re 1.0)])"),
    ("pair(i32, T) { .a = 1 }", "(aggregate (call pair [i32 T]) [(fieldvalue a 1)])"),
    ("|i, j|{N, M} -> a[i, j]", "(lambda [i j] [N M] (index a [i j]))"),
    # types are expressions
    ("[*]const f32", "(pointertype yes yes f32)"),
    ("*[2, n]f32", "(pointertype (arraytype [2 n] f32))"),
    ("fn(i16, x: anytype) *const T", "(functiontype fn [(parameter i16) (parameter x)] (pointertype yes T))"),
    ("task() void", "(functiontype task [] void)"),
    ("enum(u16) { a, b = 2 }", "(enumtype u16 [(element a) (element b 2)])"),
    ("struct { x: i16, y: *T, }", "(structtype struct [(fieldtype x i16) (fieldtype y (pointertype T))])"),
    # control flow that has a value
    ("if (a) 1 else if (b) 2 else 3", "(if [(arm a 1) (arm b 2)] 3)"),
    ("switch (a) { 1, 3...5 => x, else => y }", "(switch a [(prong [1 (range 3 5)] x) (prong [] y)])"),
    ("b: { break :b 1; } + 42", "(+ (block b [(break b 1)]) 42)"),
    ("{}", "(block [])"),
    ("comptime f(x) + 1", "(comptime (+ (call f [x]) 1))"),
]

STATEMENTS = [
    ("var x: [n]f32 align(16) = y;", "(variable var x (arraytype [n] f32) [(attribute align 16)] y)"),
    ("comptime var x = 1;", "(variable var yes x [] 1)"),
    ("a[i] <<= 2;", "(<<= (index a [i]) 2)"),
    ("p.* = 1;", "(= (dereference p) 1)"),
    ("p.*= 1;", "(= (dereference p) 1)"),
    ("if (a) b = 1; c();", "(if [(arm a (= b 1))]) (call c [])"),
    ("if (a) { b(); } else c(); d();", "(if [(arm a (block [(call b [])]))] (call c [])) (call d [])"),
    ("if (a) if (b) c() else d();", "(if [(arm a (if [(arm b (call c []))] (call d [])))])"),
    ("while (a) : (i += 1) b();", "(while a (+= i 1) (call b []))"),
    (
        "o: while (a) { continue :o; } break :o;",
        "(while o a (block [(continue o)])) (break o)",
    ),
    ("inline for (a) |x, i| { f(x); }", "(for yes a x i (block [(call f [x])]))"),
    ("for (@range(i16, 4)) |_| f();", "(for (builtin range [i16 4]) _ (call f []))"),
    (
        "switch (a) { m.x => b(), else => {} }",
        "(switch a [(prong [(member m x)] (call b [])) (prong [] (block []))])",
    ),
    ("comptime { a = 1; };", "(comptime (block [(= a 1)]))"),
    ("return;", "(return)"),
    ("return if (a) b else c;", "(return (if [(arm a b)] c))"),
    (
        'asm volatile ("x" : [r] "=r" (y) : [a] "r" (b + 1) : "r6", "memory");',
        '(assembly yes "x" [(operand r "=r" y)] [(operand a "r" (+ b 1))] ["r6" "memory"])',
    ),
]

DECLARATIONS = [
    ("param n;", "(variable param n [])"),
    ("param n: i16 = 4;", "(variable param n i16 [] 4)"),
    ("param f: fn()void;", "(variable param f (functiontype fn [] void) [])"),
    ('export var x: i16 linkname("y") = 1;', '(variable var export x i16 [(attribute linkname "y")] 1)'),
    ("extern const x: [*]f16;", "(variable const extern x (pointertype yes f16) [])"),
    (
        "extern fn g(f16, y: *T) f16;",
        "(function fn extern g [(parameter f16) (parameter y (pointertype T))] f16 [])",
    ),
    (
        "inline fn f(comptime T: type, x: anytype) @type_of(x) { return x; }",
        "(function fn inline f [(parameter T type yes) (parameter x)] (builtin type_of [x]) [] (block [(return x)]))",
    ),
    ("task t(x: f32) void {}", "(function task t [(parameter x f32)] void [] (block []))"),
    ("export fn f() i16 linkname(s) {}", "(function fn export f [] i16 [(attribute linkname s)] (block []))"),
    ("fn f() linkname(s) i16 {};", "(function fn f [] i16 [(attribute linkname s)] (block []))"),
    ("layout { @set_rectangle(1, 2); }", "(stage layout (block [(builtin set_rectangle [1 2])]))"),
    ("comptime { f(); };", "(stage comptime (block [(call f [])]))"),
    ("// only a comment\n//! and one more", ""),
]


@pytest.mark.parametrize(("text", "expected"), EXPRESSIONS)
def test_an_expression_has_this_tree(text, expected):
    """One construct each, as an initializer, where any expression may stand."""
    file = tree(f"const it = {text};")

    assert short(file.declarations[0].value) == expected
    assert tree(print_file(file)) == file


@pytest.mark.parametrize(("text", "expected"), STATEMENTS)
def test_a_statement_has_this_tree(text, expected):
    """Where `;` may be left out is part of the case: a wrong end would swallow the next statement."""
    file = tree(f"fn f() void {{ {text} }}")

    assert " ".join(map(short, file.declarations[0].body.statements)) == expected
    assert tree(print_file(file)) == file


@pytest.mark.parametrize(("text", "expected"), DECLARATIONS)
def test_a_declaration_has_this_tree(text, expected):
    """With every word that may stand before it, and every attribute behind it."""
    file = tree(text)

    assert " ".join(map(short, file.declarations)) == expected
    assert tree(print_file(file)) == file


@pytest.mark.parametrize(
    "type_",
    ["packed struct { x: u3 }", "extern struct { x: i16 }", "union { x: i16 }", "packed union { x: i16 }"],
)
def test_a_construct_of_the_later_dialect_is_named_in_the_earlier_one(type_):
    """A program for 2.10 must not fail with a puzzle: the message says which dialect has the construct."""
    text = f"const it = {type_};"

    assert tree(print_file(tree(text, "2.10")), "2.10") == tree(text, "2.10")
    assert "came with dialect 2.10; this file is read as 1.4" in message(text)


def test_literals_have_their_values():
    """Strings are bytes, characters are code points, and `_` in a number means nothing."""
    text = r"""const a = .{ 1_000, 0x_ff, 'a', '\x0a', "é\xe9\x00", 0b11, 0x1.8p3 };""".replace(
        "0x_ff", "0xff"
    )

    values = [entry.value for entry in tree(text).declarations[0].value.entries]

    assert values == [1000, 255, 97, 10, "é".encode() + b"\xe9\x00", 3, 12.0]


def test_a_span_covers_its_construct():
    """Messages of later passes point with it."""
    file = tree("const a = f(x) + g.*[1];\nfn h() void { o: while (a) {} }")
    value, loop = file.declarations[0].value, file.declarations[1].body.statements[0]

    assert [value.span.text, value.left.span.text, value.right.span.text] == [
        "f(x) + g.*[1]",
        "f(x)",
        "g.*[1]",
    ]
    assert loop.span.text == "o: while (a) {}"
    assert loop.span.source.position(loop.span.start) == (2, 15)


def test_nesting_has_a_limit_and_chains_have_none():
    """Deep nesting is an error of the program, not of Python's stack; a long sum is an ordinary program."""
    long = " + ".join(["x"] * 5000)
    branches = " else ".join(f"if (x == {number}) {{}}" for number in range(2000))

    assert print_file(tree(f"const a = {long};")) == f"const a = {long};\n"
    assert len(tree(f"fn f() void {{ {branches} }}").declarations[0].body.statements[0].arms) == 2000
    for text in ("const a = " + "(" * 5000, "const a = " + "-" * 5000 + "1;", "fn f() void " + "{" * 5000):
        assert "nested more than 100 levels deep" in message(text)
