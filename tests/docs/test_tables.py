"""The tables of the documents are those of the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from openwafer.base import llvm
from openwafer.compat._flags import FLAGS
from openwafer.csl.sema import _builtin, builtins  # noqa: F401 - fills the registry

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["fabric.md", "fabric-timing.md", "csl.md"])
def test_generated_tables_are_up_to_date(name, tables, monkeypatch):
    """A value, builtin, library or simulated cycle that changes takes its row along: `python docs/tables.py` writes them.

    What LLVM makes of a program's code changes none of its cycles. Without optimising, the 123 rows take half the time.
    """
    monkeypatch.setattr(llvm, "_OPTIMISE", 0)
    text = (DOCS / name).read_text()

    assert "<!-- table " in text
    assert tables.filled(text) == text


def test_every_table_stands_in_a_document(tables):
    """Each is there exactly once, so that no section of the timing tables is left out."""
    text = "".join((DOCS / name).read_text() for name in tables.DOCUMENTS)

    assert sorted(re.findall(r"<!-- table (\S+) -->", text)) == sorted(tables.TABLES)


def test_what_is_refused_is_not_there():
    """A builtin that is written has to leave the table of those that are missing."""
    assert len(_builtin.REFUSED) > 1
    assert not _builtin.REFUSED.keys() & _builtin.BUILTINS.keys()


def test_every_flag_of_the_compiler_is_explained():
    """A flag that is new, or gone, shows here."""
    text = (DOCS / "sdk.md").read_text()
    table = text.partition("Flags of the compiler")[2].partition("`cs_python` runs")[0]

    assert set(re.findall(r"`(--?[a-z][\w-]*)", table)) == {
        name for flag in FLAGS for name in flag.names if name not in ("-h", "--help", "--output")
    }
