"""What the names of spans and lanes mean."""

from __future__ import annotations

import re

KINDS = ("forward", "backward", "wait", "read", "cast", "update", "write", "reduce", "other")


def kind_of(name: str) -> str:
    """The kind of a span: its first word if that is one, else "other"."""
    word = name.split(" ", 1)[0]
    return word if word in KINDS else "other"


def lane_order(lane: str) -> tuple[int, tuple[tuple[int, str], ...]]:
    """Sort key: systems, memoryx, the others; numbers in names by their value (system2 before system10)."""
    group = 0 if lane.startswith("system") else 1 if lane.startswith("memoryx") else 2
    parts = re.findall(r"\d+|\D+", lane)
    return group, tuple((int(p), "") if p.isdecimal() else (-1, p) for p in parts)
