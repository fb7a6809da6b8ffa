"""What a user asks to be recorded of the runs of a process, in the environment, and the files that come of it.

WAFER_TRACE=FILE         the binary trace, with wavelets and passages
WAFER_TIME=1             where the cycles went, printed to stderr
SIMFABRIC_DEBUG=WORDS    text lines at the end of sim.log: inst_trace (operations and waits), landing (wavelets)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openwafer.fabric._machine import Machine
from openwafer.fabric._trace_file import write_trace
from openwafer.fabric._trace_summary import describe_time, summarise_trace
from openwafer.fabric.view._text import append_text


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
        """What the variables above ask for; other words of SIMFABRIC_DEBUG, which other simulators know, do nothing."""
        given = os.environ if environment is None else environment
        words = given.get("SIMFABRIC_DEBUG", "").replace(",", " ").split()
        file = given.get("WAFER_TRACE")
        return cls(
            file=Path(file) if file else None,
            time=bool(given.get("WAFER_TIME")),
            instructions="inst_trace" in words,
            landings="landing" in words,
        )


def start_trace(machine: Machine, options: TraceOptions) -> None:
    """Let `machine` record what `options` ask for."""
    if options.any:
        machine.set_trace(wavelets=options.wavelets, passages=options.wavelets)


def finish_trace(machine: Machine, options: TraceOptions, log: Path) -> None:
    """Write what was asked for: the trace file, text lines at the end of `log`, the table of times to stderr."""
    if not options.any:
        return
    trace = machine.full_trace()
    if options.file is not None:
        write_trace(trace, free_name(options.file))
    if options.instructions or options.landings:
        append_text(trace, log, instructions=options.instructions, landings=options.landings)
    if options.time:
        sys.stderr.write(describe_time(summarise_trace(trace)))


_written: set[Path] = set()


def free_name(path: Path) -> Path:
    """`path`, or the same with a number where this process has written a trace there: a script may run several programs."""
    number, chosen = 1, path
    while chosen.resolve() in _written:
        number += 1
        chosen = path.with_name(f"{path.stem}-{number}{path.suffix}")
    _written.add(chosen.resolve())
    return chosen
