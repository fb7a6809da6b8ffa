"""Typed reading of a JSON object that others wrote."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openwafer.base import CheckpointError, UnsupportedModelError

_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class Fields:
    """The object and the file that it comes from. A field that is null counts as missing.

    Each method raises CheckpointError, with the file and the field, if the value is missing without a default or is
    not of its kind.
    """

    path: Path
    values: dict[str, Any]

    def count(self, name: str, default: int = _MISSING, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._wrong(name, value, f"a whole number of at least {least}")
        return value

    def number(self, name: str, default: float = _MISSING) -> float:
        """A finite number above 0."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self._wrong(name, value, "a number above 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def tokens(self, name: str) -> tuple[int, ...]:
        """A token id, a list of them, or nothing."""
        value = self._get(name, [])
        tokens = value if isinstance(value, list) else [value]
        if any(isinstance(token, bool) or not isinstance(token, int) for token in tokens):
            raise self._wrong(name, value, "a token id or a list of them")
        return tuple(tokens)

    def demand(self, name: str, only: str) -> None:
        """Raises UnsupportedModelError unless the field is missing or has the one value that is built."""
        value = self._get(name, only)
        if value != only:
            raise UnsupportedModelError(
                f"{self.path}: {name} is {value!r}, and only {only!r} can be served; take another checkpoint"
            )

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            if default is _MISSING:
                raise CheckpointError(f"{self.path}: {name} is missing; copy the file again")
            return default
        return value

    def _wrong(self, name: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {name} is {value!r}, not {expected}; copy the file again")
