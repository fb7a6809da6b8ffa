"""Runs a few lines of Python confined, and keeps what happened."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from openwafer.base import InputError
from openwafer.sandbox import (
    TIERS,
    Confinement,
    Ended,
    Layers,
    Limits,
    Mount,
    Refused,
    interpreter_paths,
    start,
)

MIB = 1 << 20
LIMITS = Limits(memory_bytes=256 * MIB, scratch_bytes=16 * MIB, processes=40, open_files=64)


@dataclass
class Story:
    """What a program did until its end."""

    lines: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    ended: Ended | None = None
    layers: Layers | None = None

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def confinement(**fields: Any) -> Confinement:
    return Confinement(**{"trusted": interpreter_paths(sys.executable), "limits": LIMITS, **fields})


def run(
    code: str, *, tiers: Sequence[str] = TIERS, environment: dict[str, str] | None = None, **fields: Any
) -> Story:
    """Run `code` to its end."""
    story = Story()
    process = start(
        [sys.executable, "-I", "-S", "-u", "-c", code],
        confinement(**fields),
        environment=environment,
        on_line=story.lines.append,
        on_refused=story.refused.append,
        tiers=tiers,
    )
    story.layers = process.layers
    story.ended = process.wait(120.0)
    return story


@functools.cache
def available(tier: str) -> str | None:
    """Why this machine does not have a tier, or None."""
    try:
        run("pass", tiers=[tier])
    except InputError as error:
        return str(error)
    return None


def tier_or_skip(tier: str) -> str:
    why = available(tier)
    if why is not None:
        pytest.skip(why)
    return tier


__all__ = ["LIMITS", "MIB", "Mount", "Story", "available", "confinement", "run", "tier_or_skip"]
