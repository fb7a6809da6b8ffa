"""The engine of a Ray cluster: each job's command on one of its nodes, its systems there or over several."""

from __future__ import annotations

import importlib.metadata
import secrets
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, final

from openwafer.appliance._engine import Command, Engine, Host, Outcome
from openwafer.appliance._folder import JobFolder, write_whole
from openwafer.appliance._local import ending_of
from openwafer.appliance.ray._nodes import Nodes, RayNode
from openwafer.appliance.ray._placement import Placement, Seat, read_placement, write_placement
from openwafer.base import EngineError, InputError, StorageError

_LEAVE_S = 15.0
"""For agents to end when the job's command has."""
_START_S = 40.0
"""For a process to begin on another host; its keeper may have to be started first."""


class _Asked(NamedTuple):
    number: int
    sent: Any


class _Ending(NamedTuple):
    number: int
    outcome: Outcome
    until: float


@final
class RayEngine(Engine):
    """Starts, finds again and ends jobs on the nodes of a Ray cluster. Use as a context manager; jobs run on after it.

    A job that can be spread gets a placement group of as many systems: all on one node if one has room, else over several,
    with an agent on each. Any other runs on the node where this engine is, whatever systems it has been given. The state
    folder must be on storage that all nodes share, at the same path, and so must Python and openwafer.

    A node that Ray counts as dead is a job's loss: `look` says `lost`. What still runs there ends itself when the job has been
    started anew.
    """

    def __init__(self, folder: Path, address: str = "auto", systems: int | None = None) -> None:
        """folder: the state folder. systems: see `Nodes`.

        Raises InputError if `ray` is missing, no cluster is at `address`, a host cannot see the folder or has another
        version; StorageError if the folder cannot be written.
        """
        self._nodes = Nodes(address, systems)
        self._placements: dict[Path, Placement] = {}
        self._asked: dict[Path, _Asked] = {}
        self._ending: dict[Path, _Ending] = {}
        self._admitted: set[str] = set()
        self._mark = folder / "ray-mark"
        try:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"{folder} cannot be made: {error.strerror}; name another state folder"
                ) from error
            write_whole(self._mark, secrets.token_hex(16).encode())
            for node in self._nodes.alive().values():
                self._admit(node)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the Ray cluster; jobs run on."""
        self._nodes.close()

    @property
    def asks_for_token(self) -> bool:
        """Whether Ray lets in only who knows its token: without one, whoever reaches its ports runs programs."""
        return self._nodes.asks_for_token

    # --- the cluster ------------------------------------------------------------------------------------------

    def systems(self) -> int:
        return sum(node.systems for node in self._nodes.alive().values())

    def threads(self) -> int:
        offers = [node for node in self._nodes.alive().values() if node.systems]
        return max(1, min((node.cpus // node.systems for node in offers), default=1))

    def hosts(self) -> list[Host]:
        placements = list(self._placements.items())
        return [
            Host(
                node.name,
                node.address,
                node.systems,
                tuple(path.name for path, placement in placements if node.id in placement.nodes),
            )
            for node in self._nodes.alive().values()
        ]

    # --- jobs -------------------------------------------------------------------------------------------------

    def start(self, folder: JobFolder, command: Command) -> None:
        placement = self._place(folder, command)
        try:
            for seat in placement.seats:
                self._admit(self._nodes.alive()[seat.node])
            write_placement(folder, placement)
            self._placements[folder.path] = placement
            words = list(command.words)
            if placement.mode == "several":
                words += self._start_agents(folder, placement, command)
            self._start_at(placement.seats[0], folder, command._replace(words=words))
        except BaseException:
            self._kill_all(folder, placement)
            self._release(folder, placement)
            raise

    def look(self, folder: JobFolder, number: int) -> Outcome:
        placement = self._placement(folder)
        if placement is None or placement.number != number:
            self._nodes.free_systems(folder.path.name)
            return Outcome("absent")
        ending = self._ending.get(folder.path)
        if ending is None or ending.number != number:
            outcome = self._ask(folder, placement)
            if outcome.state == "runs":
                return outcome
            ending = _Ending(number, outcome, time.monotonic() + _LEAVE_S)
            self._ending[folder.path] = ending
            self._interrupt_agents(folder, placement)
        if self._agents_run(folder, placement) and time.monotonic() < ending.until:
            return Outcome("runs")
        self._kill_agents(folder, placement)
        self._release(folder, placement)
        return ending.outcome

    def interrupt(self, folder: JobFolder) -> None:
        placement = self._placement(folder)
        if placement is not None and placement.seats[0].node in self._nodes.alive():
            with suppress(EngineError):  # it is asked again, or killed after a while
                self._nodes.send(placement.seats[0].node, "interrupt", str(folder.path))

    def kill(self, folder: JobFolder) -> None:
        placement = self._placement(folder)
        if placement is not None:
            self._kill_all(folder, placement)

    # --- parts of these ---------------------------------------------------------------------------------------

    def _placement(self, folder: JobFolder) -> Placement | None:
        known = self._placements.get(folder.path)
        if known is None:
            known = read_placement(folder)
            if known is not None:
                self._placements[folder.path] = known
        return known

    def _place(self, folder: JobFolder, command: Command) -> Placement:
        if command.spread is None or not command.systems:
            home = self._nodes.alive(fresh=True).get(self._nodes.home)
            if home is None:
                raise EngineError(
                    "this machine has left the Ray cluster; run `ray start --address` on it again"
                )
            seat = Seat(node=home.id, address=home.address, systems=command.systems)
            return Placement(number=command.number, group="", seats=(seat,), mode="one")
        group, places = self._nodes.take_systems(folder.path.name, command.systems)
        seats = tuple(Seat(node=node.id, address=node.address, systems=count) for node, count in places)
        return Placement(
            number=command.number, group=group, seats=seats, mode="one" if len(seats) == 1 else "several"
        )

    def _start_agents(self, folder: JobFolder, placement: Placement, command: Command) -> list[str]:
        """Start an agent on each host. Returns what the job's command has to be told of them."""
        assert command.spread is not None
        head = placement.seats[0]
        token = folder.path / "hosts" / "token"
        values = {
            "{hosts}": str(len(placement.seats)),
            "{listen}": head.address,
            "{port}": str(self._nodes.call(head.node, "free_port", head.address)),
            "{token}": str(token),
        }
        try:
            for _, own in placement.agents(folder):
                own.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{folder.path} cannot be written: {error.strerror}; make room there"
            ) from error
        if not token.exists():
            write_whole(token, secrets.token_hex(32).encode() + b"\n", mode=0o600)
        words = _filled(command.spread.agent, values)
        for seat, own in placement.agents(folder):
            # Its own folder, also in its environment: what the command leaves behind is not what an agent does.
            environment = {**command.environment, "OPENWAFER_JOB": str(own.path)}
            self._start_at(seat, own, command._replace(words=words, environment=environment))
        return _filled(command.spread.options, values)

    def _start_at(self, seat: Seat, folder: JobFolder, command: Command) -> None:
        told = self._nodes.call(seat.node, "start", str(folder.path), command, timeout_s=_START_S)
        if told:
            raise EngineError(told)

    def _ask(self, folder: JobFolder, placement: Placement) -> Outcome:
        """What became of the job's command; `runs` as long as its host has not said otherwise."""
        head = placement.seats[0]
        if head.node not in self._nodes.alive():
            return self._lost(folder, placement)
        asked = self._asked.get(folder.path)
        if asked is None or asked.number != placement.number:
            sent = self._nodes.send(head.node, "look", str(folder.path), placement.number)
            asked = self._asked[folder.path] = _Asked(placement.number, sent)
        if not self._nodes.is_there(asked.sent):
            return Outcome("runs")
        del self._asked[folder.path]
        try:
            outcome: Outcome = self._nodes.take(head.node, asked.sent, 5.0)
        except EngineError:
            if head.node in self._nodes.alive(fresh=True):
                raise
            return self._lost(folder, placement)
        return outcome

    def _lost(self, folder: JobFolder, placement: Placement) -> Outcome:
        """Of a job whose host is lost: it may have ended before, or since, where its folder was still within reach."""
        self._asked.pop(folder.path, None)
        return ending_of(folder, placement.number) or Outcome("lost")

    def _agents_here(self, folder: JobFolder, placement: Placement) -> list[tuple[Seat, JobFolder]]:
        alive = self._nodes.alive()
        return [(seat, own) for seat, own in placement.agents(folder) if seat.node in alive]

    def _agents_run(self, folder: JobFolder, placement: Placement) -> bool:
        for seat, own in self._agents_here(folder, placement):
            with suppress(EngineError):
                outcome = self._nodes.call(seat.node, "look", str(own.path), placement.number, timeout_s=2.0)
                if outcome.state == "runs":
                    return True
        return False

    def _interrupt_agents(self, folder: JobFolder, placement: Placement) -> None:
        for seat, own in self._agents_here(folder, placement):
            with suppress(EngineError):
                self._nodes.send(seat.node, "interrupt", str(own.path))

    def _kill_agents(self, folder: JobFolder, placement: Placement) -> None:
        for seat, own in self._agents_here(folder, placement):
            with suppress(EngineError):
                self._nodes.call(seat.node, "kill", str(own.path), timeout_s=5.0)

    def _kill_all(self, folder: JobFolder, placement: Placement) -> None:
        if placement.seats[0].node in self._nodes.alive():
            with suppress(EngineError):
                self._nodes.call(placement.seats[0].node, "kill", str(folder.path), timeout_s=5.0)
        self._kill_agents(folder, placement)

    def _release(self, folder: JobFolder, placement: Placement) -> None:
        if placement.group:
            self._nodes.free_systems(placement.group)
        self._placements.pop(folder.path, None)
        self._asked.pop(folder.path, None)
        self._ending.pop(folder.path, None)

    def _admit(self, node: RayNode) -> None:
        """Raises InputError for a host that jobs could not run on."""
        if node.id in self._admitted:
            return
        greeting = self._nodes.call(node.id, "greet", str(self._mark), timeout_s=_START_S)
        where = f"{greeting.name} ({node.address})"
        own = importlib.metadata.version("openwafer")
        if greeting.version != own:
            raise InputError(
                f"{where} has openwafer {greeting.version}, and this is {own}; install the same there"
            )
        if greeting.mark != self._mark.read_bytes():
            raise InputError(
                f"{where} does not see the state folder {self._mark.parent}; put it on storage that all hosts of the Ray "
                "cluster mount at the same path (--folder)"
            )
        self._admitted.add(node.id)


def _filled(words: tuple[str, ...], values: dict[str, str]) -> list[str]:
    filled = list(words)
    for name, value in values.items():
        filled = [word.replace(name, value) for word in filled]
    return filled
