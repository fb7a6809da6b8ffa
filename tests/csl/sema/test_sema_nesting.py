"""Python's limit on nested calls: high while a program is compiled, and nobody else's matter."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from openwafer.csl import DiagnosticError, compile_unit
from openwafer.csl.sema._core import Options
from openwafer.csl.sema._nesting import deep_nesting

DEEP = """
fn sum(comptime n: i16) i16 { return if (n == 0) 0 else n + sum(n - 1); }
const total: i16 = sum(%d);
export var result: i16 = total;
"""


def test_a_compilation_nests_deep_and_leaves_the_limit_as_it_was(tmp_path: Path) -> None:
    """The limit is the whole process's: a server in it decodes what strangers send by recursion in C."""
    before = sys.getrecursionlimit()
    path = tmp_path / "deep.csl"
    path.write_text(DEEP % 200)

    compile_unit(path, {}, options=Options())
    after_good = sys.getrecursionlimit()
    path.write_text(DEEP % 1000)
    with pytest.raises(DiagnosticError, match="256"):
        compile_unit(path, {}, options=Options())

    assert (after_good, sys.getrecursionlimit()) == (before, before)


def test_the_last_of_several_compilations_restores_the_limit() -> None:
    """One that ends must not take the stack away from one that goes on."""
    before = sys.getrecursionlimit()
    first, second = threading.Event(), threading.Event()

    def other() -> None:
        with deep_nesting():
            first.set()
            assert second.wait(60)

    thread = threading.Thread(target=other)
    with deep_nesting():
        thread.start()
        assert first.wait(60)
    inside = sys.getrecursionlimit()
    second.set()
    thread.join()

    assert inside > 10 * before
    assert sys.getrecursionlimit() == before
