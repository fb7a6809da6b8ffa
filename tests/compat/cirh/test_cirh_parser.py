"""The parser reads what MLIR writes, and says at line and column what is wrong with the rest."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.base import CirhError
from openwafer.compat.cirh import Place, Type, parse
from openwafer.compat.cirh._dense import decode
from openwafer.compat.cirh._function import Dense

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> str:
    """The text of a program that the client wrote."""
    return gzip.decompress((GOLDEN / f"{name}.mlir.gz").read_bytes()).decode()


CUSTOM = """
#loc0 = loc(unknown)
module @step attributes {cs.version = "2.10"} {
  func @graph(%arg0: tensor<8x4xf32> {tf.aliasing_output = 0 : i64, tf.resource_name = "state.w"} loc(unknown),
              %arg1: tensor<8xi64> {cs.input_name = "input_0"}) -> (tensor<8x4xf32>, tensor<f32> {cs.output_name = "loss"})
      attributes {cs.fp16_type = "bfloat16", cs.pol = 1 : i64} {
    %cst = cirh.Const dense<1.5> : tensor<8x4xf32> loc(#loc1)  // a constant
    %0:2 = cirh.Split %arg0 {axis = 1 : i64} : (tensor<8x4xf32>) -> (tensor<8x2xf32>, tensor<8x2xf32>)
    %1 = cirh.Concat %0#1, %0#0 {axis = 1 : i64} : (tensor<8x2xf32>, tensor<8x2xf32>) -> tensor<8x4xf32> loc(#loc2)
    %2 = cirh.Mul %1, %cst : tensor<8x4xf32> loc("here"("model.py":3:1))
    %3 = cirh.Cast %2 {Truncate = false} : tensor<8x4xf32> -> tensor<8x4xbf16>
    %4 = cirh.Reduce %2 {dimensions = dense<[0, 1]> : tensor<2xi64>, keep_dims = dense<> : tensor<0xi64>,
      reduce_kind = "ADD", cs.internal = {cs.id = 3 : i32, flag}, list = [1, "a\\"b", -2.5, unit]}
      : (tensor<8x4xf32>) -> tensor<f32>
    return %2, %4 : tensor<8x4xf32>, tensor<f32>
  } loc(#loc0)
} loc(#loc0)
#loc1 = loc("fc1.fwd/aten::mul"(callsite("wrapper"("torch/nn/linear.py":9:0) at callsite("forward"("model.py":23:0) at #loc3))))
#loc2 = loc(callsite("f"("model.py":7:0) at "g"("main.py":9:1)))
#loc3 = loc("<module>"("main.py":1:0))
"""


def test_a_program_becomes_plain_data():
    """Every part of the text is there: types, attributes of all kinds, several results, places."""
    function = parse(CUSTOM, "step")

    assert function.name == "graph"
    assert function.attributes == {"cs.fp16_type": "bfloat16", "cs.pol": 1}
    assert [a.attributes.get("tf.resource_name") for a in function.arguments] == ["state.w", None]
    assert function.values[1] == Type("i64", (8,))
    assert [op.name for op in function.ops] == ["Const", "Split", "Concat", "Mul", "Cast", "Reduce"]
    split, concat = function.ops[1:3]
    assert concat.operands == split.results[::-1]
    attributes = function.ops[5].attributes
    assert attributes["reduce_kind"] == "ADD"
    assert attributes["cs.internal"] == {"cs.id": 3, "flag": True}
    assert attributes["list"] == [1, 'a"b', -2.5, True]
    assert function.results[1].attributes == {"cs.output_name": "loss"}
    assert function.values[function.results[1].value] == Type("f32", ())
    assert [op.line for op in function.ops] == [7, 8, 9, 10, 11, 12]


def test_places_name_the_module_and_the_users_line():
    """Names nest, aliases point at aliases, and lines of torch are not the user's."""
    function = parse(CUSTOM)

    assert function.place_of(function.ops[0]) == Place("fc1.fwd/aten::mul", "model.py:23")
    assert function.place_of(function.ops[2]) == Place("f", "model.py:7")
    assert function.place_of(function.ops[3]) == Place("here", "model.py:3")
    assert function.where(function.ops[0]) == "program:7: cirh.Const (fc1.fwd/aten::mul at model.py:23)"


def test_the_generic_form_reads_the_same():
    """What `--mlir-print-op-generic` prints of an operation, and `func.func` of later versions."""
    text = """
    module {
      func.func @graph(%a: tensor<2x3xf32>) -> tensor<2x3xf16> {
        %0 = "cirh.Const"() {value = dense<[[1, 2, 3], [4, 5, 6]]> : tensor<2x3xf32>} : () -> tensor<2x3xf32> loc(unknown)
        %1 = "cirh.Add"(%a, %0) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
        %2 = "cirh.Cast"(%1) {Truncate = false} : (tensor<2x3xf32>) -> tensor<2x3xf16>
        "func.return"(%2) : (tensor<2x3xf16>) -> ()
      }
    }"""

    function = parse(text)

    assert [op.name for op in function.ops] == ["Const", "Add", "Cast"]
    assert function.results[0].value == function.ops[2].results[0]


MISTAKES = [
    ("%0 = cirh.Mul %a, %b : tensor<4xf32>", "5:23: error: %b is used before it is defined"),
    ("%a = cirh.Abs %a : tensor<4xf32>", "5:5: error: %a is defined twice"),
    ("%0 = cirh.Abs %a tensor<4xf32>", "5:22: error: expected ':' before the types, found 'tensor<4xf32>'"),
    ("%0 = cirh.Abs %a : tensor<4xf33>", "5:24: error: 'f33' is no element type that tensors have here"),
    ("%0 = cirh.Abs %a : tensor<?xf32>", "5:24: error: a shape that is not static: every dim must be a number"),
    ("%0 = cirh.Abs %a : vector<4xf32>", r"5:24: error: expected a tensor type \(tensor<4x8xf32>\), found 'vector'"),
    ("%0 = tosa.abs %a : tensor<4xf32>", r"5:10: error: tosa.abs is no operation of CIRH \(cirh.Name\)"),
    ("%0 = cirh.Abs %a {x = } : tensor<4xf32>", "5:27: error: expected the value of an attribute, found '}'"),
    ("%0 = cirh.Abs %a {x, x} : tensor<4xf32>", "5:26: error: the attribute x is given twice"),
    ("%0 = cirh.Abs %a : (tensor<5xf32>) -> tensor<4xf32>", "5:5: error: operand 0 is tensor<4xf32>, not tensor<5xf32>"),
    ("%0, %1 = cirh.Abs %a : tensor<4xf32>", "5:5: error: cirh.Abs has 1 results, and 2 names stand before it"),
    ("%0 = cirh.Abs %a : tensor<4xf32> loc(", "5:41: error: this parenthesis is never closed"),
    ("%0 = cirh.Abs $a : tensor<4xf32>", r"5:19: error: '\$' begins nothing that MLIR has"),
    ('%0 = cirh.Abs %a {x = 1.5 : i32} : tensor<4xf32>', "5:27: error: 1.5 is no integer, but its type is i32"),
    ("", "5:5: error: the function promises 1 results and returns 0"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_shown_at_its_line_and_column(line, message):
    """The message names the text, the place, what was expected and what stands there, and shows the line."""
    last = "return" if not line else "return %0 : tensor<4xf32>"
    text = f"\nmodule {{\n  func @graph(%a: tensor<4xf32>)\n      -> tensor<4xf32> {{\n    {line or last}\n    {last}\n  }}\n}}"

    with pytest.raises(CirhError, match=f"^step.mlir:{message}") as caught:
        parse(text, "step.mlir")

    assert "5 | " in str(caught.value)
    assert str(caught.value).endswith("^")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text has no function"),
        ("module {", "the text has no function"),
        ("func @a() {return} func @b() {return}", "a second function: a program is one flat function"),
        ("hello", "expected a module or a function, found 'hello'"),
        (
            "func @a(%x: tensor<2xf32>) -> tensor<2xf32> {return %x : tensor<3xf32>}",
            "the types after `return`",
        ),
    ],
)
def test_what_is_no_program_is_refused(text, message):
    """Also text that ends too early."""
    with pytest.raises(CirhError, match=message):
        parse(text)


def test_long_lines_are_shown_in_part():
    """The client's argument lists have thousands of characters."""
    arguments = ", ".join(f"%a{i}: tensor<4xf32>" for i in range(500))

    with pytest.raises(CirhError, match="%a499 is defined twice") as caught:
        parse(f"func @graph({arguments}, %a499: tensor<4xf32>) {{return}}")

    assert max(map(len, str(caught.value).splitlines())) < 160


@settings(max_examples=60, deadline=None)
@given(
    at=st.integers(0, 1 << 20), change=st.sampled_from(["", "%", "}", "<", '"', "(", "tensor<", "\x00", "é"])
)
def test_a_damaged_text_ends_in_an_error_with_a_place(at, change):
    """Cut off or changed anywhere, it is read or refused; nothing else happens."""
    text = golden("mlp_bfloat16")
    at %= len(text)
    damaged = text[:at] + change + (text[at + 1 :] if change else "")

    try:
        parse(damaged, "damaged")
    except CirhError as error:
        message = str(error)
    else:
        message = "damaged: not so badly that it shows"
    assert message.startswith("damaged:")


# --- constants --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        ("1.000000e+00", Type("f32", (2, 2)), torch.tensor(1.0)),
        ("0x7F800000", Type("f32", (3,)), torch.tensor(torch.inf)),
        ("0xFF80", Type("bf16", (3,)), torch.tensor(-torch.inf, dtype=torch.bfloat16)),
        ("0x3C00", Type("f16", ()), torch.tensor(1.0, dtype=torch.float16)),
        ("[1, -2, 3]", Type("i64", (3,)), torch.tensor([1, -2, 3])),
        ("[[1, 2], [3, 4]]", Type("i32", (2, 2)), torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)),
        ("[true, false]", Type("i1", (2,)), torch.tensor([True, False])),
        ("false", Type("i1", (7,)), torch.tensor(False)),
        ("", Type("i64", (0,)), torch.zeros(0, dtype=torch.int64)),
        ('"0x0000803F000000C0"', Type("f32", (2,)), torch.tensor([1.0, -2.0])),
        ('"0x0D"', Type("i1", (4,)), torch.tensor([True, False, True, True])),
    ],
    ids=lambda value: str(value)[:24],
)
def test_constants_are_decoded(body, kind, expected):
    """Numbers, nested lists, bits in hexadecimal, raw bytes; one value that fills a tensor stays one value."""
    found = decode(Dense(body, kind))

    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("[1, 2]", Type("i64", (3,)), r"has 2 values for tensor<3xi64>"),
        ("1.5", Type("i64", (3,)), "holds what is no i64"),
        ('"0x00"', Type("f32", (2,)), "has 1 bytes, not 8"),
        ('"0xZZ"', Type("f32", (2,)), "holds what is no hexadecimal number"),
        ("a; b", Type("f32", (2,)), "is no list of numbers"),
    ],
)
def test_constants_that_are_none_are_refused(body, kind, message):
    """With the text and the type."""
    with pytest.raises(CirhError, match=message):
        decode(Dense(body, kind))


# --- what the client wrote --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.gz")), ids=lambda path: path.name.partition(".")[0])
def test_the_clients_programs_are_read(path):
    """Every value that is returned was defined, and nearly all operations have a place in the client's source."""
    text = gzip.decompress(path.read_bytes()).decode()

    function = parse(text, path.name)

    made = {v for op in function.ops for v in op.results} | {a.value for a in function.arguments}
    assert {result.value for result in function.results} <= made
    placed = [bool(function.place_of(op).file) for op in function.ops if op.name != "Const"]
    assert sum(placed) > 0.9 * len(placed)


def test_a_program_of_twelve_layers_is_read_fast():
    """Regular expressions take whole types and places at once: 1.7 million characters take a fraction of a second."""
    text = golden("gpt2_12_layers")
    started = time.monotonic()

    function = parse(text)

    assert len(function.ops) > 3000
    assert time.monotonic() - started < 30
