"""Ports and files: the map of a layout's ports, and what arrives at a port written to a file.

The map is what public programs read and give back: {"buses": [{"port_name": ..., "direction": ..., ...}]}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from openwafer.artifact._image import Port
from openwafer.base import InputError, StorageError
from openwafer.host._device import Device
from openwafer.host._driver import Task

_MANY = 1 << 20


def write_port_map(path: Path, ports: Iterable[Port]) -> None:
    """Write the map of these ports."""
    buses = [
        {"port_name": one.name, "direction": one.direction, "color": one.color, "x": one.x, "y": one.y}
        for one in ports
    ]
    path.write_text(json.dumps({"buses": buses}, indent=2) + "\n", encoding="utf-8")


def read_port_map(path: Path) -> list[str]:
    """The names of the ports in a map.

    Raises InputError if it cannot be read or is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "SdkLayout.compile writes one beside the program"
        raise InputError(f"port map {path} cannot be read: {error.strerror}; {hint}") from error
    except ValueError as error:
        raise InputError(
            f"port map {path} is no JSON ({error}); write it anew with SdkLayout.compile"
        ) from error
    buses = found.get("buses") if isinstance(found, dict) else None
    if not isinstance(buses, list) or not all(isinstance(one, dict) and "port_name" in one for one in buses):
        raise InputError(
            f'port map {path} has another form than {{"buses": [{{"port_name": ...}}]}}; write it anew with SdkLayout.compile'
        )
    return [str(one["port_name"]) for one in buses]


class PortFile:
    """A file that takes every word of a port, 4 bytes each, lowest first, until it is closed."""

    def __init__(self, device: Device, port: Port, path: Path, task: Task) -> None:
        self._device, self._port, self.task = device, port, task
        try:
            self._file: BinaryIO = path.open("wb")
        except OSError as error:
            raise StorageError(
                f"receive_tofile from port {port.name!r}: {path} cannot be written: {error.strerror}; choose another file"
            ) from error
        self.drain()

    def drain(self) -> None:
        """Write the words that have arrived."""
        if self.task.done:
            return
        words = self._device.receive(self._port.name, self._port.x, self._port.y, _MANY)
        while words.size:
            self._file.write(words.astype("<u4").tobytes())
            words = self._device.receive(self._port.name, self._port.x, self._port.y, _MANY)

    def close(self) -> None:
        """Write what is left; its task is done."""
        if not self.task.done:
            self.drain()
            self._file.close()
            self.task.done = True


def chosen_ports(ports: Sequence[Port], names: Sequence[str] | None, where: Path) -> dict[str, Port]:
    """The ports by name; only those of a port map if there is one.

    Raises InputError if the map names a port that the program does not have.
    """
    found = {port.name: port for port in ports}
    if names is None:
        return found
    for name in names:
        if name not in found:
            raise InputError(
                f"the port map of {where} has a port {name!r}, the program has {', '.join(found) or 'none'}; "
                "compile the layout again, which writes its map too"
            )
    return {name: found[name] for name in names}
