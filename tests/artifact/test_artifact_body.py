"""Bodies as text, and what is read off them: last uses, storages, bytes."""

from __future__ import annotations

import math

import pytest
from body_strategies import bodies
from hypothesis import given, settings

from openwafer.artifact import Body, Instr, Ref, Symbol, TensorType, parse_body, print_body
from openwafer.base import PlanError

F32 = TensorType("float32", (4, 8))


@settings(max_examples=300, deadline=None)
@given(body=bodies())
def test_parsing_the_text_of_a_body_gives_the_body(body):
    """Text is the form in which bodies travel and are hashed: nothing may be lost, no two bodies may look alike."""
    assert parse_body(print_body(body)) == body
    assert parse_body(print_body(body)).key == body.key


@pytest.mark.parametrize(
    "value",
    [math.inf, -math.inf, -0.0, 1e-300, 5e-324, 0.1, -1, 2**70, True, None, 'it\'s "quoted"\n', ("a", ())],
)
def test_arguments_keep_their_type_and_sign(value):
    """1, 1.0 and True are different arguments, and so are 0.0 and -0.0."""
    body = Body((F32,), (Instr("aten.add.Tensor", (Ref(0), value), (), (F32,)),), (1,))

    found = parse_body(print_body(body)).instrs[0].args[1]

    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_not_a_number_is_an_argument_too():
    """Masks are sometimes filled with it; it equals nothing, itself included."""
    body = Body((), (Instr("aten.full.default", ((2,), math.nan), (), (F32,)),), (0,))

    found = parse_body(print_body(body)).instrs[0].args[1]

    assert isinstance(found, float)
    assert math.isnan(found)


def test_operators_named_after_python_keywords_have_a_text_form():
    """`x.random_(0, 9)` is the operator aten.random.from, and its argument is called `from`."""
    instr = Instr("aten.random.from", (Ref(0),), (("from", 0), ("to", 9)), (F32,))
    body = Body((F32,), (instr,), (1,))

    assert parse_body(print_body(body)) == body


def test_a_name_that_begins_like_a_keyword_is_left_alone():
    """`int` without its last letter is `in`: aten.transpose.int must not lose it."""
    instr = Instr("aten.transpose.int", (Ref(0), 0, 1), (), (TensorType("float32", (8, 4)),), view_of=0)
    body = Body((F32,), (instr,), (1,))

    assert parse_body(print_body(body)) == body


def test_the_text_of_the_documentation_is_what_is_printed():
    """The example in the module's docstring."""
    mm = Body(
        (F32, TensorType("float32", (8, 8))),
        (
            Instr("aten.t.default", (Ref(1),), (), (TensorType("float32", (8, 8)),), view_of=1),
            Instr("aten.mm.default", (Ref(0), Ref(2)), (), (F32,)),
        ),
        (3,),
    )

    assert print_body(mm) == (
        "body(v0: float32[4, 8], v1: float32[8, 8]):\n"
        "    v2: float32[8, 8] @ v1 = aten.t.default(v1)\n"
        "    v3: float32[4, 8] = aten.mm.default(v0, v2)\n"
        "    return v3\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("body(v0: float32[4]:\n    return v0\n", "line 1 of a body is not readable"),
        (
            "body(v0: float32[4]):\n    v1 = aten.t.default(v0)\n    return v1\n",
            "line 2 of a body is no instruction",
        ),
        (
            "body(v0: float32[4]):\n    v1: float33[4] = aten.t.default(v0)\n    return v1\n",
            "line 2 of a body",
        ),
        (
            "body(v0: float32[4]):\n    v1: float32[4] = aten.t.default(w0)\n    return v1\n",
            "line 2 of a body",
        ),
        (
            "body(v0: float32[4]):\n    import os\n    return v0\n",
            "line 2 of a body is no instruction: import os",
        ),
        ("body(v0: float32[4]):\n    return os\n", "line 2 of a body is no instruction: return os"),
    ],
)
def test_what_is_no_body_is_refused_with_its_line(text, message):
    """A plan comes from a file: a torn one says where, and nothing in it runs."""
    with pytest.raises(PlanError, match=message):
        parse_body(text)


@settings(max_examples=200, deadline=None)
@given(body=bodies())
def test_last_uses_cover_every_value_that_is_no_output(body):
    """Each value dies once, after the last instruction that reads it, or where it was made if nothing does."""
    count = len(body.inputs)
    assert set(body.last_use) == set(range(count + len(body.instrs))) - set(body.outputs)
    for index, position in body.last_use.items():
        made = index - count if index >= count else -1
        readers = [p for p, instr in enumerate(body.instrs) if index in instr.operands]
        assert position == max([made, *readers])


@settings(max_examples=200, deadline=None)
@given(body=bodies())
def test_live_bytes_are_those_of_a_replay(body):
    """What is held after each instruction: storages made here with a view that is still to be read or is returned."""
    count = len(body.inputs)
    until = {i: body.last_use.get(i, len(body.instrs)) for i in range(count + len(body.instrs))}
    expected = []
    for position in range(len(body.instrs)):
        held = {
            body.storage[index]
            for index in range(count + position + 1)
            if until[index] >= position and body.storage[index] >= count
        }
        # A storage lives as long as the longest-lived of all its views, those still to be made included.
        for index in range(count, count + position + 1):
            if body.storage[index] == index and any(
                owner == index and until[view] >= position for view, owner in enumerate(body.storage)
            ):
                held.add(index)
        sizes = [body.instrs[index - count] for index in held]
        expected.append(sum(instr.types[0].nbytes for instr in sizes if len(instr.types) == 1))

    assert list(body.live_bytes) == expected
    assert body.peak_bytes == max(expected, default=0)


def test_equal_bodies_have_equal_keys_and_others_do_not():
    """The key is what layers share their compiled form by."""
    one = Body((F32,), (Instr("aten.relu.default", (Ref(0),), (), (F32,)),), (1,))
    same = Body((F32,), (Instr("aten.relu.default", (Ref(0),), (), (F32,)),), (1,))
    other = Body((F32,), (Instr("aten.relu.default", (Ref(0),), (), (F32,)),), (0,))

    assert one.key == same.key
    assert one.key != other.key
    assert Symbol("torch.float32") != "torch.float32"
