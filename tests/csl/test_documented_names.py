"""Every name of the public documentation is there, or refused by a message of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from openwafer.csl.sema import _types as types
from openwafer.csl.sema import builtins
from openwafer.csl.sema._builtin import BUILTINS, REFUSED

LIBRARY = Path(builtins.__file__).parents[2] / "library"


def documented() -> dict[str, set[str]]:
    """Names by what they belong to."""
    found: dict[str, set[str]] = {}
    for line in Path(__file__).with_name("documented_names.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            owner, _, names = line.partition(":")
            found.setdefault(owner, set()).update(names.split())
    return found


NAMES = documented()
LIBRARIES = [owner for owner in NAMES if owner.startswith("<")]


def test_every_documented_builtin_is_there_or_refused_by_name():
    """What is there and not documented would be an invention; libraries have names of their own, which begin with `__`."""
    public = {name for name in BUILTINS if not name.startswith("__")}

    assert public | REFUSED.keys() == NAMES["builtins"]


def test_every_documented_type_is_a_name():
    """`fifo` and ranges are made by builtins and have no name in the documentation."""
    assert types.NAMED.keys() - {"fifo"} == NAMES["types"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_declares_what_its_page_lists(library):
    """Functions are analysed only where they are used, so a missing one would show only to its user."""
    text = (LIBRARY / f"{library.strip('<>')}.csl").read_text("utf-8")
    declared = set(re.findall(r"^(?:inline )?(?:fn|const|param|var) (\w+)", text, re.MULTILINE))

    assert NAMES[library] <= declared
