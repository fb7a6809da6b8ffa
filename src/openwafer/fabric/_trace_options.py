"""What a user asks to be recorded of the machines of a process, in the environment, and the files that come of it.

WAFER_TRACE=FILE         the binary trace, with wavelets; a second machine of the process writes FILE-2, and so on
WAFER_TIME=1             where the cycles went, to stderr
SIMFABRIC_DEBUG=WORDS    text lines at the end of sim.log: inst_trace (operations and waits), landing (wavelets)
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openwafer.base import WaferError
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
    log: Path = Path("sim.log")
    """Where text lines go."""

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
            # A script may change its folder before the machine ends.
            file=Path(file).absolute() if file else None,
            time=bool(given.get("WAFER_TIME")),
            instructions="inst_trace" in words,
            landings="landing" in words,
            log=Path("sim.log").absolute(),
        )


_watched: dict[Machine, TraceOptions] = {}
_written: set[Path] = set()


def watch_machine(machine: Machine, options: TraceOptions | None = None) -> None:
    """Let `machine` record what `options`, or the environment, ask for.

    `finish_trace` writes it; if that is not called, as after an error, the end of the process does.
    """
    chosen = TraceOptions.from_environment() if options is None else options
    if not chosen.any:
        return
    if not _watched:
        atexit.register(_finish_all)
    machine.set_trace(wavelets=chosen.wavelets, passages=chosen.wavelets)
    _watched[machine] = chosen


def finish_trace(machine: Machine) -> None:
    """Write what was asked for of a machine: files, text lines, the table of times. Once; else, and for others, nothing.

    Raises StorageError if a file cannot be written.
    """
    options = _watched.pop(machine, None)
    if options is None:
        return
    trace = machine.full_trace()
    if options.file is not None:
        write_trace(trace, _free_name(options.file))
    if options.instructions or options.landings:
        append_text(trace, options.log, instructions=options.instructions, landings=options.landings)
    if options.time:
        sys.stderr.write(describe_time(summarise_trace(trace)))


def _finish_all() -> None:
    for machine in list(_watched):
        try:
            finish_trace(machine)
        except WaferError as error:
            sys.stderr.write(f"error: {error}\n")


def _free_name(path: Path) -> Path:
    number, chosen = 1, path
    while chosen in _written:
        number += 1
        chosen = path.with_name(f"{path.stem}-{number}{path.suffix}")
    _written.add(chosen)
    return chosen
