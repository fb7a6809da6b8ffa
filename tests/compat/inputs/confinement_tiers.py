"""Which tiers of confinement this machine has."""

from __future__ import annotations

import functools
import sys

import pytest

from openwafer.base import InputError
from openwafer.sandbox import Confinement, interpreter_paths, start


@functools.cache
def _missing(tier: str) -> str | None:
    try:
        start(
            [sys.executable, "-I", "-S", "-c", "pass"],
            Confinement(trusted=interpreter_paths(sys.executable)),
            tiers=[tier],
        ).wait()
    except InputError as error:
        return str(error)
    return None


def tier_or_skip(tier: str) -> str:
    why = _missing(tier)
    if why is not None:
        pytest.skip(why)
    return tier
