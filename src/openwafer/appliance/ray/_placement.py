"""Where a start of a job is: kept in the job's folder, so that the next management node finds it again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from openwafer.appliance._folder import JobFolder, write_whole
from openwafer.base import StorageError

FILE = "ray.json"


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A host that a job has."""

    node: str
    """Ray's id of it, which is another one when a host that was cut off comes back."""
    address: str
    systems: int


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts of one start. The first runs the job's command; of several, each runs an agent."""

    number: int
    group: str
    """Ray's placement group; "" for none."""
    seats: tuple[Seat, ...]
    mode: Literal["one", "several"]

    @property
    def nodes(self) -> set[str]:
        """Ray's ids of the hosts."""
        return {seat.node for seat in self.seats}

    def agent_folder(self, job: JobFolder, seat: Seat) -> JobFolder:
        """Where the agent of a host keeps what a job keeps in its folder: its lock, its exit status, its log."""
        return JobFolder(job.path / "hosts" / f"{self.number}-{self.seats.index(seat)}")

    def agents(self, job: JobFolder) -> list[tuple[Seat, JobFolder]]:
        """Every agent of this start."""
        return [(seat, self.agent_folder(job, seat)) for seat in self.seats] if self.mode == "several" else []


def read_placement(job: JobFolder) -> Placement | None:
    """That of the job's latest start; None if it has none yet."""
    path = job.path / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Placement)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StorageError(
            f"{path} cannot be read ({error}), so that nobody knows where the job runs; check the disk of the state folder"
        ) from error


def write_placement(job: JobFolder, placement: Placement) -> None:
    """Raises StorageError."""
    write_whole(Path(job.path / FILE), msgspec.json.encode(placement))
