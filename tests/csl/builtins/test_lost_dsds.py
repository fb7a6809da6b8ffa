"""Variables that should hold a DSD and do not: what the machine says of them."""

from __future__ import annotations

import pytest
from machine_cases import START, run

HEAD = """
var long = @zeros([8]f16);
var short = @zeros([2]f16);
var pointer: [*]f16 = &short;
var target = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{2} -> short[i] });
const source = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{8} -> long[i] });
"""


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
@pytest.mark.parametrize("value", ["0.0", "1.0"])
def test_a_dsd_that_was_written_over_is_named_with_the_array_before_it(tmp_path, architecture, value):
    """The length of an operation is its first source's; writing eight elements to an array of two hits what lies behind."""
    program = """
task start() void {
  for (@range(i16, 8)) |i| { long[i] = VALUE; }
  @fmovh(target, source);
  @fmovh(target, source);
}
""".replace("VALUE", value)
    failure = run(HEAD + program + START, tmp_path, architecture).failure

    assert failure.endswith(
        "@fmovh has an operand that is no DSD: something has written over target, which lies behind short ([2]f16) in "
        "memory; check the lengths and addresses of what is written there"
    )
    assert "pe.csl:11:3: PE (0, 0), task start" in failure


def test_a_dsd_that_is_all_zero_may_never_have_been_set(tmp_path):
    """Twenty zeros reach over all of it; then nobody knows whether anything ever stood there."""
    program = HEAD.replace("[8]f16", "[20]f16").replace("{8}", "{20}")
    failure = run(
        program + "task start() void { @fmovh(target, source); @fmovh(target, source); }" + START, tmp_path
    ).failure

    assert (
        "is no DSD: it was never set, or something has written zeros over target, which lies behind short"
        in failure
    )
