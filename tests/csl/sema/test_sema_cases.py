"""Programs and what becomes of them, one a file in cases/."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sema_cases import CASES, compile_case, missing, read_case, result_text, symbol_values

sys.path.append(str(Path(__file__).parents[1] / "ir"))

from ir_machine import resolved, run_both

from openwafer.csl import ir

TEXT = sorted(path for path in CASES.glob("*.csl") if "// RUN: run" not in path.read_text("utf-8"))
RUN = sorted(path for path in CASES.glob("*.csl") if "// RUN: run" in path.read_text("utf-8"))


@pytest.mark.parametrize("path", TEXT, ids=lambda path: path.stem)
def test_case_gives_what_its_checks_say(path: Path) -> None:
    """The text (PE-IR, diagnostics, what is printed) has the checked parts in their order, and no errors beside them."""
    case = read_case(path)

    text = result_text(case)

    assert missing(case.checks, text) == "", text
    wanted = sum("error:" in one for one in case.checks)
    assert text.count(": error: ") == wanted, text


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_case_computes_what_its_checks_say(path: Path) -> None:
    """The compiled function leaves these values, the same in the interpreter and in native code."""
    case = read_case(path)
    unit = compile_case(case)
    unit.exports.append(ir.Exported("main", "function", function=case.target, type="fn() void"))
    entry = ir.entries(unit).index(case.target)
    code, memory = resolved(unit)

    interpreted, native = run_both(code, entry, memory=memory)

    assert interpreted.seen == native.seen
    assert interpreted.statuses == [0], interpreted.log
    found = symbol_values(unit, interpreted.data.raw)
    for check in case.checks:
        name, _, value = check.partition(" = ")
        wanted = json.loads(value)
        assert found[name] == (wanted if isinstance(wanted, list) else [wanted]), name


def test_every_kind_of_case_is_there() -> None:
    """An empty folder would test nothing."""
    assert len(TEXT) >= 20
    assert len(RUN) >= 15
