"""Functions that call each other as the last thing they do become loops; `run_tail_calls.csl` runs one."""

from __future__ import annotations

from pathlib import Path

import pytest

from openwafer.base import CslError
from openwafer.csl import compile_unit, ir
from openwafer.csl.sema._core import Options


def looped(folder: Path, text: str) -> ir.Unit:
    (folder / "main.csl").write_text(text, "utf-8")
    unit = compile_unit(folder / "main.csl", {}, options=Options(), tell=lambda _: None)
    return ir.loop_tail_calls(unit)


def test_a_cycle_of_last_calls_has_no_call_left(tmp_path: Path) -> None:
    """A PE's locals have fixed places, so a function that is entered again has to be a jump; the rest stays as it is."""
    unit = looped(
        tmp_path,
        """
var left: i16 = 5;
fn done() void { left = -1; }
fn odd() void { if (left == 0) { done(); } else { left -= 1; even(); } }
fn even() void { if (left == 0) { done(); } else { left -= 1; odd(); } }
export fn main() void { even(); }
""",
    )

    ir.verify(unit)
    assert list(unit.functions) == ["main", "even", "done"]
    assert [
        one.function for one in ir.instructions(unit.functions["even"]) if isinstance(one, ir.Invoke)
    ] == [
        "done",
        "done",
    ]
    ir.link(unit)


@pytest.mark.parametrize(
    "body",
    [
        "if (n == 0) { return 1; } return n * f(n - 1);",
        "const r = if (n == 0) n else f(n - 1); left = r; return r;",
    ],
)
def test_a_call_with_work_behind_it_is_no_jump(tmp_path: Path, body: str) -> None:
    """Its locals are needed twice at once: it gets a stack, and code without one is refused."""
    unit = looped(
        tmp_path,
        f"var left: i16;\nfn f(n: i16) i16 {{ {body} }}\nexport fn main() void {{ left = f(left); }}",
    )

    with pytest.raises(CslError, match="f calls itself"):
        ir.verify(unit)
    ir.verify(ir.stack_calls(unit))


def test_a_pointer_to_a_local_is_no_last_call(tmp_path: Path) -> None:
    """The next round would begin with the local that the pointer leads to."""
    unit = looped(
        tmp_path,
        """
var r: i16;
fn f(n: *i16) void { var own: i16 = n.* - 1; if (own == 0) { r = 1; } else { f(&own); } }
export fn main() void { var x: i16 = r; f(&x); }
""",
    )

    with pytest.raises(CslError, match="calls itself"):
        ir.verify(unit)
    ir.verify(ir.stack_calls(unit))
