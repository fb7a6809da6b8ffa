"""What runs on each host of a Ray cluster: a `LocalEngine`, told what to do by the management node."""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from openwafer.appliance._engine import Command, Outcome
from openwafer.appliance._folder import JobFolder, read_from
from openwafer.appliance._local import LocalEngine
from openwafer.base import WaferError


class Greeting(NamedTuple):
    """What a host says of itself."""

    name: str
    version: str
    mark: bytes
    """The content of the file that the management node made in the state folder, as this host sees it."""


class Keeper:
    """Keeps the jobs' processes of one host. It holds nothing that it does not find in the jobs' folders again."""

    def __init__(self) -> None:
        self._engine = LocalEngine()

    def greet(self, mark: str) -> Greeting:
        """mark: a file of the state folder, which every host must see."""
        try:
            seen = read_from(Path(mark), 0)
        except WaferError:
            seen = b""
        return Greeting(socket.gethostname(), importlib.metadata.version("openwafer"), seen)

    def free_port(self, address: str) -> int:
        """A port of this host that nothing listens at now."""
        with socket.create_server((address, 0)) as free:
            return int(free.getsockname()[1])

    def start(self, folder: str, command: Command) -> str:
        """Start a process as `LocalEngine.start` does. Returns "", or why that cannot be: errors lose their class on the way."""
        return self._told(lambda: self._engine.start(JobFolder(folder), command))

    def look(self, folder: str, number: int) -> Outcome:
        """As `LocalEngine.look`."""
        return self._engine.look(JobFolder(folder), number)

    def interrupt(self, folder: str) -> None:
        """As `LocalEngine.interrupt`."""
        self._engine.interrupt(JobFolder(folder))

    def kill(self, folder: str) -> None:
        """As `LocalEngine.kill`."""
        self._engine.kill(JobFolder(folder))

    def _told(self, what: Callable[[], None]) -> str:
        try:
            what()
        except WaferError as error:
            return str(error)
        return ""
