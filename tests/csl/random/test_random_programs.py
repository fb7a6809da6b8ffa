"""What the language means, against a reference that shares no code with the compiler."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_program import Memory, Program

from openwafer.csl import compile_program
from openwafer.csl.interpret import Executor
from openwafer.fabric import Machine
from openwafer.fabric._native import runtime_addresses

LAYOUT = 'layout { @set_rectangle(1, 1); @set_tile_code(0, 0, "pe.csl", .{}); }\n'


def machines(folder: Path, text: str, architecture: Literal["wse2", "wse3"]) -> list[Machine]:
    """The program run to its end, natively and interpreted."""
    (folder / "layout.csl").write_text(LAYOUT)
    (folder / "pe.csl").write_text(text)
    image = compile_program(
        folder / "layout.csl",
        params={},
        architecture=architecture,
        fabric=(3, 3),
        offset=(1, 1),
        memcpy=False,
    )
    made = [Machine(image), Machine(image, executor=Executor(runtime_addresses()))]
    for machine in made:
        outcome = machine.run()
        assert outcome.idle, (text, machine.failure)
        assert not outcome.stalled, (text, machine.diagnose())
    return made


def memory_of(machine: Machine) -> Memory:
    """The numbers in a machine's memory, by the names of their variables."""
    found: dict[str, Any] = {}
    for symbol in machine.image.programs[0].symbols:
        kind = symbol.type.rpartition("]")[2]
        if not symbol.name.startswith(("g_", "a_", "out_")):
            continue
        name = {"i": f"int{kind[1:]}", "u": f"uint{kind[1:]}", "f": f"float{kind[1:]}"}[kind[0]]
        values = np.frombuffer(machine.read(0, 0, symbol.address, symbol.bytes), name)
        found[symbol.name] = values if symbol.type.startswith("[") else values[0]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.sampled_from(["wse2", "wse3"]))
def test_random_programs_compute_what_python_computes(
    folder: Path, random: Random, architecture: Literal["wse2", "wse3"]
) -> None:
    """Loops, branches, calls, structs, arrays, pointers and every numeric type: all variables hold the expected bits."""
    with np.errstate(all="ignore"):
        program = Program(random)
        expected = program.run()

    native, interpreted = machines(folder, program.text, architecture)

    found = memory_of(native)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=f"{name} in\n{program.text}")
    size = native.image.programs[0].memory_bytes
    assert native.read(0, 0, 0, size) == interpreted.read(0, 0, 0, size)
    assert native.cycle == interpreted.cycle


def test_the_programs_have_everything_that_they_may_have() -> None:
    """A generator that makes only assignments would prove little."""
    text = "".join(Program(Random(seed)).text for seed in range(60))

    for word in (
        "while (",
        "for (@range",
        "for (a_",
        "switch (",
        "break :blk",
        "return ",
        "continue;",
        ".*[",
        "triple {",
    ):
        assert text.count(word) > 20, word
