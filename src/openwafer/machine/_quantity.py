"""A number that knows its unit, its grade and where it comes from, and numbers that disagree."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from openwafer.base import GIB, KIB, InputError
from openwafer.machine._arithmetic import evaluate


class Grade(Enum):
    """How far a number can be trusted.

    published: a vendor, a paper or the press printed it. measured: somebody ran a clock, a counter or
    a meter. derived: arithmetic on published or measured numbers. assumed: remembered, inferred, or
    arithmetic with a part that is.
    """

    PUBLISHED = "published"
    MEASURED = "measured"
    DERIVED = "derived"
    ASSUMED = "assumed"


_PREFIXES = (
    (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m")
)  # fmt: skip
_PREFIXED_UNITS = frozenset({"B", "B/s", "FLOP/s", "Hz", "W", "b/s"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One number about the hardware.

    value: finite, in `unit`, which carries no prefix (Hz, never MHz). anchor: its entry in
    docs/facts.md. A number computed from others carries `formula` over the names in `parts`; the
    function `derive` makes it. `int()` and `float()` give the bare number.

    Raises InputError if the value is not finite, source or anchor are missing, or grade and formula
    contradict each other.
    """

    value: float
    unit: str
    grade: Grade
    source: str
    anchor: str
    formula: str = ""
    parts: tuple[tuple[str, Quantity], ...] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise InputError(f"{self.anchor}: {self.value} {self.unit} is not a number; give a finite value")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.anchor):
            raise InputError(
                f"anchor {self.anchor!r} is not lower-case words joined by hyphens; rename the entry"
            )
        if not self.source.strip():
            raise InputError(
                f"{self.anchor}: {self.value} {self.unit} has no source; say where it comes from"
            )
        if self.formula and self.grade not in (Grade.DERIVED, Grade.ASSUMED):
            raise InputError(f"{self.anchor}: {self.formula!r} is computed, so it is not {self.grade.value}")
        if self.grade is Grade.DERIVED and not self.formula:
            raise InputError(f"{self.anchor}: a derived number needs its formula; make it with derive()")

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        """The value as an int. Raises InputError if it is not whole, rather than cutting it off."""
        if not float(self.value).is_integer():
            raise InputError(f"{self.anchor}: {self.text} is not a whole number; use float()")
        return int(self.value)

    @property
    def text(self) -> str:
        """The number as docs/facts.md writes it: `850 MHz`, `48 KiB`, `753,972 PEs`."""
        value = float(self.value)
        if self.unit == "B" and value.is_integer() and value:
            if value % GIB == 0:
                return f"{value / GIB:,.0f} GiB"
            if value % KIB == 0 and value < KIB * KIB:
                return f"{value / KIB:,.0f} KiB"
        if self.unit == "B" and abs(value) < 1e6:
            return f"{value:,.4g} B" if value < 1e4 else f"{value:,.0f} B"
        if self.unit in _PREFIXED_UNITS and value:
            scale, prefix = next((p for p in _PREFIXES if abs(value) >= p[0]), _PREFIXES[-1])
            return f"{value / scale:,.4g} {prefix}{self.unit}"
        head, slash, tail = self.unit.partition("/")
        unit = f"{head.removesuffix('s')}{slash}{tail}" if value == 1 else self.unit
        return f"{value:,.0f} {unit}" if value.is_integer() else f"{value:,.4g} {unit}"

    @property
    def origin(self) -> str:
        """The source; for a computed number, its arithmetic with every part written out, then the source."""
        if not self.formula:
            return self.source
        texts = {name: part.text for name, part in self.parts}
        written = re.sub(r"[A-Za-z_]\w*", lambda m: texts.get(m[0], m[0]), self.formula).replace("*", "×")  # noqa: RUF001
        return f"{written}; {self.source}"

    @property
    def recommended(self) -> Quantity:
        """Itself: an uncontested number is its own default."""
        return self

    @property
    def alternatives(self) -> tuple[Quantity, ...]:
        """Nobody contradicts it."""
        return ()

    @property
    def reason(self) -> str:
        """Empty: there was nothing to choose."""
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contested:
    """Numbers that contradict each other: the one used unless a caller says otherwise, and the rest.

    reason: why `recommended` is the default. All share one unit and one entry of docs/facts.md. Reads
    like its recommended Quantity (`value`, `unit`, `grade`, `text`, `int()`, ...), so a report that
    uses it must print `text` and `grade` of what it used.

    Raises InputError if nothing contradicts, or units or entries differ.
    """

    recommended: Quantity
    alternatives: tuple[Quantity, ...]
    reason: str

    def __post_init__(self) -> None:
        anchor, unit = self.recommended.anchor, self.recommended.unit
        if not self.alternatives or not self.reason.strip():
            raise InputError(
                f"{anchor}: a contested number needs an alternative and the reason for its default"
            )
        for other in self.alternatives:
            if (other.anchor, other.unit) != (anchor, unit):
                raise InputError(
                    f"{anchor} in {unit} cannot be contested by {other.anchor} in {other.unit}; "
                    "give both the same entry and unit"
                )
            if other.value == self.recommended.value:
                raise InputError(
                    f"{anchor}: {other.text} twice is agreement; name both sources in one Quantity"
                )

    def __float__(self) -> float:
        return float(self.recommended)

    def __int__(self) -> int:
        return int(self.recommended)

    @property
    def value(self) -> float:
        """The recommended value."""
        return self.recommended.value

    @property
    def unit(self) -> str:
        """The unit that all the values share."""
        return self.recommended.unit

    @property
    def grade(self) -> Grade:
        """The grade of the recommended value."""
        return self.recommended.grade

    @property
    def source(self) -> str:
        """The source of the recommended value."""
        return self.recommended.source

    @property
    def anchor(self) -> str:
        """The entry in docs/facts.md that all the values share."""
        return self.recommended.anchor

    @property
    def text(self) -> str:
        """The recommended value as docs/facts.md writes it."""
        return self.recommended.text


Fact: TypeAlias = Quantity | Contested


def published(value: float, unit: str, anchor: str, source: str) -> Quantity:
    """A number that `source` printed."""
    return Quantity(value=value, unit=unit, grade=Grade.PUBLISHED, source=source, anchor=anchor)


def measured(value: float, unit: str, anchor: str, source: str) -> Quantity:
    """A number that `source` measured."""
    return Quantity(value=value, unit=unit, grade=Grade.MEASURED, source=source, anchor=anchor)


def assumed(value: float, unit: str, anchor: str, source: str) -> Quantity:
    """A number that nobody was found to have printed or measured; `source` says what it rests on."""
    return Quantity(value=value, unit=unit, grade=Grade.ASSUMED, source=source, anchor=anchor)


def derive(formula: str, unit: str, anchor: str, source: str, parts: Mapping[str, Fact]) -> Quantity:
    """A number computed here from `parts` (a contested part gives its recommended value).

    Its grade is derived, or assumed when a part is assumed: arithmetic makes nothing more certain.

    Raises InputError if the formula cannot be evaluated over the parts.
    """
    chosen = {name: part.recommended for name, part in parts.items()}
    return Quantity(
        value=evaluate(formula, {name: part.value for name, part in chosen.items()}),
        unit=unit,
        grade=Grade.ASSUMED if any(p.grade is Grade.ASSUMED for p in chosen.values()) else Grade.DERIVED,
        source=source,
        anchor=anchor,
        formula=formula,
        parts=tuple(chosen.items()),
    )


def contested(recommended: Quantity, *alternatives: Quantity, reason: str) -> Contested:
    """`recommended` as the default among numbers that disagree, and why."""
    return Contested(recommended=recommended, alternatives=alternatives, reason=reason)
