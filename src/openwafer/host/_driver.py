"""Commands of the host in their order, and the machine driven just as far as they need it.

A command is a generator: it does what it can and yields what it waits for. Commands of one lane run one after the other;
memcpy and launches share a lane, each port of a layout has its own. The machine's clock stands still while no command needs
it, so that the cycle at which a command meets the fabric depends on the commands alone and not on the host's speed. That is
why nonblocking commands are queued and driven by the next call that waits, and no thread runs them meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from openwafer.base import FabricError, StalledError, WaferError

_SLICE = 32
_LONGEST_SLICE = 1 << 16
_SLICES_OF_A_WAIT = 16


class Clocked(Protocol):
    """The part of a machine that the driver needs."""

    @property
    def cycle(self) -> int: ...
    def advance(self, cycles: int) -> bool:
        """Run that many cycles; True, and earlier, if nothing can change any more without the host."""

    def skip_to(self, cycle: int) -> None:
        """On an idle machine: let time pass."""

    def failure(self) -> str: ...
    def diagnose(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Until:
    """The machine has to run until `ready` says so; with `or_rest`, at most until nothing can move any more."""

    ready: Callable[[], bool]
    what: str
    hint: str = ""
    or_rest: bool = False


@dataclass(frozen=True, slots=True)
class Cycle:
    """The machine has to reach a cycle."""

    number: int


Command: TypeAlias = Iterator[Until | Cycle]


class Task:
    """Handle to a command; `SdkRuntime.task_wait` waits for it."""

    __slots__ = ("done", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = False

    def __repr__(self) -> str:
        return f"<Task {self.name}: {'done' if self.done else 'pending'}>"


class _Lane:
    def __init__(self) -> None:
        self.commands: deque[tuple[Task, Command]] = deque()
        self.wait: Until | Cycle | None = None

    def progress(self, cycle: int) -> bool:
        """Do what can be done at this cycle; False if that is nothing."""
        moved = False
        while self.commands:
            if isinstance(self.wait, Until) and not self.wait.ready():
                return moved
            if isinstance(self.wait, Cycle) and self.wait.number > cycle:
                return moved
            task, command = self.commands[0]
            self.wait = None  # an error in the command must not leave it waiting
            self.wait = next(command, None)
            moved = True
            if self.wait is None:
                task.done = True
                self.commands.popleft()
        return moved


class Driver:
    """Runs commands and the machine below them."""

    def __init__(self, machine: Clocked, after_run: Callable[[bool], None] = lambda final: None) -> None:
        self._machine = machine
        self._after_run = after_run
        self._lanes: dict[str, _Lane] = {}
        self._since = 0
        self._broken: WaferError | None = None

    @property
    def broken(self) -> bool:
        """A command failed, or the fabric did: nothing can be run any more."""
        return self._broken is not None

    def submit(self, lane: str, name: str, command: Command) -> Task:
        """Queue a command behind those of its lane."""
        task = Task(name)
        self._lanes.setdefault(lane, _Lane()).commands.append((task, command))
        return task

    def finish(self, task: Task) -> None:
        """Run until a task is done.

        Raises FabricError if the program does what the machine forbids, and StalledError if the task waits for what can no
        longer happen; both again at every later call.
        """
        while not task.done:
            self._step()

    def poll(self, task: Task) -> bool:
        """Whether a task is done; if not, a little is done for it first."""
        if not task.done:
            self._step()
        return task.done

    def finish_all(self) -> None:
        """Run until every task is done; errors as in `finish`."""
        while any(lane.commands for lane in self._lanes.values()):
            self._step()

    def run_until_idle(self, most_cycles: int | None = None) -> bool:
        """Run until nothing can change any more, or that many cycles; whether it came to rest."""
        last = None if most_cycles is None else self._machine.cycle + most_cycles
        idle = False
        while not idle and (last is None or self._machine.cycle < last):
            idle = self._run(_LONGEST_SLICE)
        return idle

    def _step(self) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            if any([lane.progress(self._machine.cycle) for lane in self._lanes.values()]):
                self._since = self._machine.cycle
                return
            self._go_on([lane for lane in self._lanes.values() if lane.commands])
        except WaferError as error:
            self._broken = error
            raise

    def _go_on(self, lanes: list[_Lane]) -> None:
        now = self._machine.cycle
        times = [lane.wait.number for lane in lanes if isinstance(lane.wait, Cycle)]
        # A wait ends at the end of a slice. In slices of a part of the wait so far that is at most so much too late, and a long
        # wait costs few looks.
        cycles = min(max(_SLICE, (now - self._since) // _SLICES_OF_A_WAIT), _LONGEST_SLICE)
        idle = self._run(min([cycles, *(time - now for time in times)]))
        if idle and times:
            self._machine.skip_to(min(times))
        if not idle or times:
            return
        waits = [(lane.commands[0][0], lane.wait) for lane in lanes if isinstance(lane.wait, Until)]
        if any(wait.ready() for _, wait in waits):
            return
        content = [lane for lane in lanes if isinstance(lane.wait, Until) and lane.wait.or_rest]
        for lane in content:
            lane.wait = None
        if not content:
            self._after_run(True)
            task, wait = waits[0]
            lines = [
                f"{task.name} cannot go on: it waits for {wait.what}, and nothing on the fabric can move any more"
            ]
            lines += [f"hint: {wait.hint}"] if wait.hint else []
            lines += [f"{other.name} waits for {more.what}" for other, more in waits[1:]]
            raise StalledError("\n".join([*lines, self._machine.diagnose()]).rstrip())

    def _run(self, cycles: int) -> bool:
        idle = self._machine.advance(cycles)
        failure = self._machine.failure()
        self._after_run(bool(failure))
        if failure:
            raise FabricError(failure)
        return idle
