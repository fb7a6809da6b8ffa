"""What a program runs on. Here that is always the simulator; the names are those of the public host API."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

from openwafer.base import InputError

_MAX_THREADS = 64


class SdkTarget(Enum):
    """The architecture that a layout is compiled for."""

    WSE2 = "wse2"
    WSE3 = "wse3"


@dataclass(frozen=True, slots=True)
class SimfabConfig:
    """How to simulate.

    num_threads and suppress_trace are accepted for existing programs and change nothing: one simulation runs on one thread,
    and traces are off unless asked for. `dump_core`: `stop` writes the memory of every PE to `core_path` (default out.core).
    """

    num_threads: int = 16
    suppress_trace: bool = False
    dump_core: bool = False
    core_path: Path | str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_threads <= _MAX_THREADS:
            raise InputError(f"SimfabConfig(num_threads={self.num_threads}): choose 1 to {_MAX_THREADS}")


@dataclass(frozen=True, slots=True)
class SdkExecutionPlatform:
    """A simulator with its configuration and architecture; `get_platform` makes one."""

    config: SimfabConfig = field(default_factory=SimfabConfig)
    target: SdkTarget = SdkTarget.WSE3

    @property
    def architecture(self) -> Literal["wse2", "wse3"]:
        return "wse2" if self.target is SdkTarget.WSE2 else "wse3"

    def is_simulation(self) -> bool:
        """Always True: openwafer drives no real system."""
        return True

    def is_system(self) -> bool:
        """Always False: openwafer drives no real system."""
        return False


def get_platform(
    cmaddr: str | None = None, config: SimfabConfig | None = None, target: SdkTarget = SdkTarget.WSE3
) -> SdkExecutionPlatform:
    """The simulator of `target`.

    Raises InputError if `cmaddr` names a system, as there is none to reach from here.
    """
    no_system(cmaddr)
    return get_simulator(config, target)


def get_simulator(
    config: SimfabConfig | None = None, target: SdkTarget = SdkTarget.WSE3
) -> SdkExecutionPlatform:
    """The simulator of `target`."""
    return SdkExecutionPlatform(config or SimfabConfig(), target)


def get_system(cmaddr: str) -> SdkExecutionPlatform:
    """Always InputError: openwafer drives no real system."""
    no_system(cmaddr or "''")
    raise AssertionError("no_system raises for every address")


def no_system(cmaddr: str | None) -> None:
    """Raises InputError if `cmaddr` names a real system."""
    if cmaddr:
        raise InputError(
            f"cmaddr {cmaddr} names a real system, and openwafer only simulates; leave cmaddr out to run on the simulator"
        )
