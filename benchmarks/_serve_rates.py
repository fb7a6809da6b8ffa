"""What every contestant of `serve_peers.py` is asked, and how it is timed. Standard library only."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

Run = Callable[[list[list[int]], list[int]], list[int]]
"""Sequences' new tokens, as many of each, and how many tokens each has already; a next token for each.

Sequences that have none begin anew, all of them."""


def prompts(settings: dict[str, Any], count: int, length: int) -> list[list[int]]:
    """So many prompts, other ones at every call."""
    return [[_random.randrange(settings["vocabulary"]) for _ in range(length)] for _ in range(count)]


_random = random.Random(0)


def timed(body: Callable[[], object]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    body()
    return time.perf_counter() - begun


def measured(settings: dict[str, Any], run: Run) -> dict[str, float]:
    """Tokens per second of each kind."""
    found = {}
    length = settings["prompt_tokens"]
    for count in (1, settings["sequences"]):
        tokens = run(prompts(settings, count, length), [0] * count)
        tokens = run(
            [[token] for token in tokens], [length] * count
        )  # the first is slower for some, and not counted
        begun = time.perf_counter()
        for step in range(1, settings["steps"]):
            tokens = run([[token] for token in tokens], [length + step] * count)
        found[f"decode {count}"] = (settings["steps"] - 1) * count / (time.perf_counter() - begun)
    for length in settings["prefills"]:
        asked = [prompts(settings, 1, length) for _ in range(settings["prompts"])]
        found[f"prefill {length}"] = length / statistics.median(timed(lambda p=p: run(p, [0])) for p in asked)
    return found
