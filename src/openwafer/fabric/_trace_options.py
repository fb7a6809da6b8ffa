"""What a user asks to be recorded of the runs of a process, in the environment, and the files that come of it.

WAFER_TRACE=FILE         the binary trace, with wavelets and passages
WAFER_TIME=1             where the cycles went, printed to stderr
SIMFABRIC_DEBUG=WORDS    text lines in FILE of `sim_trace_log`: inst_trace (operations), landing (wavelets)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openwafer.base import InputError

_DEBUG_WORDS = ("inst_trace", "landing")


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What to record of a run."""

    file: Path | None = None
    """Where the binary trace goes."""
    time: bool = False
    instructions: bool = False
    landings: bool = False

    @property
    def any(self) -> bool:
        """Whether the machine has to record at all."""
        return self.file is not None or self.time or self.instructions or self.landings

    @property
    def wavelets(self) -> bool:
        """Whether wavelets are recorded too."""
        return self.file is not None or self.landings

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> TraceOptions:
        """What the variables above ask for. Raises InputError for a word of SIMFABRIC_DEBUG that means nothing here."""
        given = os.environ if environment is None else environment
        words = given.get("SIMFABRIC_DEBUG", "").replace(",", " ").split()
        for word in words:
            if word not in _DEBUG_WORDS:
                raise InputError(
                    f"SIMFABRIC_DEBUG={word} is not known; choose among {', '.join(_DEBUG_WORDS)}, or unset it"
                )
        file = given.get("WAFER_TRACE")
        return cls(
            file=Path(file) if file else None,
            time=bool(given.get("WAFER_TIME")),
            instructions="inst_trace" in words,
            landings="landing" in words,
        )
