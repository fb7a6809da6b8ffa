"""The flags of cslc: every form that existing scripts use, and what a wrong one says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from openwafer.base import InputError
from openwafer.compat._flags import FLAGS, help_text, parse_flags

DIMS = "--fabric-dims=8,3 --fabric-offsets=4,1"


def parsed(text: str):
    return parse_flags(shlex.split(text))


@pytest.mark.parametrize(
    "call",
    [
        "--arch=wse3 layout.csl --fabric-dims=12,7 --fabric-offsets=4,1 -o=out2 --params=a:1,b:-2 --params=c:3 --memcpy "
        "--channels=2",
        "layout.csl --arch wse3 --fabric-dims 12,7 --fabric-offsets 4,1 -o out2 --params a:1,b:-2,c:3 --memcpy --channels 2",
    ],
)
def test_values_stand_behind_an_equals_sign_or_a_blank(call):
    """Public scripts mix both forms, and repeat --params."""
    options = parsed(call)

    assert options.source == Path("layout.csl")
    assert (options.architecture, options.fabric, options.offset) == ("wse3", (12, 7), (4, 1))
    assert (options.output, options.channels, options.memcpy) == (Path("out2"), 2, True)
    assert options.params == {"a": "1", "b": "-2", "c": "3"}


def test_flags_that_are_left_out_have_defaults():
    """Old scripts name no architecture, which then was WSE-2."""
    options = parsed(f"layout.csl {DIMS}")

    assert (options.architecture, options.channels, options.memcpy, options.half) == ("wse2", 1, False, "f16")
    assert (options.output, options.dialect, options.params) == (Path("out"), "1.4", {})


def test_import_paths_come_from_flags_and_the_environment(monkeypatch):
    """CSL_IMPORT_PATH names further folders; the flags' come first."""
    monkeypatch.setenv("CSL_IMPORT_PATH", "/one:/two")

    assert parsed(f"x.csl {DIMS} --import-path lib").import_paths == (Path("lib"), Path("/one"), Path("/two"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (f"x.csl {DIMS} --chanels=1", "no flag --chanels; did you mean --channels"),
        (f"x.csl {DIMS} --zzz", "no flag --zzz; see cslc --help"),
        (f"x.csl {DIMS} --arch=wse4", "--arch=wse4: choose wse2 or wse3"),
        (f"x.csl {DIMS} --channels", "--channels needs a value"),
        (f"x.csl {DIMS} --channels=17", "--channels=17: choose 1 to 16"),
        (f"x.csl {DIMS} --channels=many", "expected a whole number"),
        (f"x.csl {DIMS} --memcpy=yes", "--memcpy takes no value, found 'yes'"),
        (f"x.csl {DIMS} --params=a", "expected NAME:VALUE,..., found 'a'"),
        ("x.csl --fabric-dims=8", "expected two whole numbers, for example --fabric-dims=8,3"),
        ("x.csl", "cslc needs --fabric-dims=W,H"),
        (DIMS, "cslc compiles one layout file, found none"),
        (f"x.csl y.csl {DIMS}", "found x.csl y.csl"),
        ("x.csl --fabric-dims=8,3 --fabric-offsets=3,1 --memcpy", "write --fabric-offsets=4,1"),
        (f"x.csl {DIMS} --memcpy --width-west-buf=2", "write --fabric-offsets=6,1"),
    ],
)
def test_a_wrong_flag_says_what_is_right(call, message):
    """The nearest flag, the choices, or the form."""
    with pytest.raises(InputError) as told:
        parsed(call)

    assert message in str(told.value)


def test_help_names_every_flag():
    """The table of flags is what both the parser and the help read."""
    assert all(name in help_text() for flag in FLAGS for name in flag.names)
