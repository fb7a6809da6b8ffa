"""How many DSRs there are: one number of `machine`, which the compiler refuses beyond and the machine has."""

from __future__ import annotations

import pytest
from machine_cases import START, build, run

from openwafer.csl import DiagnosticError
from openwafer.fabric import load_timing
from openwafer.machine import WSE2, WSE3

PROGRAM = """
var a = [2]u16 { 3, 4 };
var b = @zeros([2]u16);
const source = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{2} -> a[i] });
const target = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{2} -> b[i] });
const from = @get_dsr(dsr_src1, NUMBER);
const to = @get_dsr(dsr_dest, NUMBER);
task start() void { @load_to_dsr(to, target); @load_to_dsr(from, source); @mov16(to, from); }
"""


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_the_last_register_that_the_compiler_knows_is_the_machines_last(tmp_path, architecture):
    """Two tables of the same number would drift apart: a program would compile and fail as it runs, or not compile."""
    registers = int((WSE2 if architecture == "wse2" else WSE3).pe.dsrs)

    ran = run(PROGRAM.replace("NUMBER", str(registers - 1)) + START, tmp_path, architecture)
    with pytest.raises(DiagnosticError, match=f"DSR {registers} is out of range"):
        build(PROGRAM.replace("NUMBER", str(registers)) + START, tmp_path, architecture)

    assert ran.failure == ""
    assert ran["b"] == [3, 4]
    assert load_timing(architecture)["registers.dsr_dest"] == registers
