"""How a job's process is started, watched and ended; where it runs is the engine's business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from openwafer.appliance._folder import JobFolder
from openwafer.appliance._spec import Spread


class Outcome(NamedTuple):
    """What became of a job's latest start."""

    state: Literal["runs", "ended", "lost", "absent"]
    """`lost`: it is gone, and nobody knows how it ended. `absent`: it never began."""
    status: int | None = None
    """The exit status if it ended; negative: the signal."""


class Command(NamedTuple):
    """Everything about one start of a job."""

    words: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    number: int
    """1 for the first start."""
    systems: int = 0
    spread: Spread | None = None


class Host(NamedTuple):
    """A machine that systems are on."""

    name: str
    address: str
    systems: int
    jobs: tuple[str, ...]
    """The ids of those that have processes there."""


class Engine(ABC):
    """Runs jobs' processes, which live on when the node dies: all that it knows of them it finds in their folders again."""

    @abstractmethod
    def start(self, folder: JobFolder, command: Command) -> None:
        """Start the job. Raises StorageError or EngineError if it cannot be; then nothing of it is left."""

    @abstractmethod
    def look(self, folder: JobFolder, number: int) -> Outcome:
        """What became of the start of this number. It has ended only when nothing of it is left."""

    @abstractmethod
    def interrupt(self, folder: JobFolder) -> None:
        """Ask the job to end, as Ctrl-C does; without effect if it does not run."""

    @abstractmethod
    def kill(self, folder: JobFolder) -> None:
        """End everything of the job at once; without effect if it does not run."""

    def systems(self) -> int | None:
        """How many systems there are at the moment, where hosts come and go; None: as many as were configured."""
        return None

    def hosts(self) -> list[Host]:
        """The machines that systems are on, where that is not simply this one."""
        return []

    def threads(self) -> int | None:
        """Arithmetic threads of one system, where the engine knows better than the node's configuration."""
        return None
