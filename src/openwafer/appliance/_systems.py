"""The systems of a cluster by name, and which of them are out of service: that is kept in a file."""

from __future__ import annotations

from pathlib import Path
from typing import final

import msgspec

from openwafer.appliance._folder import write_whole
from openwafer.base import InputError, StorageError


@final
class Systems:
    """`system-0` to `system-<n-1>`."""

    def __init__(self, file: Path, count: int) -> None:
        """file: what `take_out` wrote. Raises StorageError if it cannot be read."""
        self._file = file
        self.names = tuple(f"system-{index}" for index in range(count))
        self.out: dict[str, str] = {}
        """Systems out of service, each with the reason."""
        if file.exists():
            try:
                self.out = msgspec.json.decode(file.read_bytes(), type=dict[str, str])
            except (OSError, msgspec.MsgspecError) as error:
                raise StorageError(
                    f"{file} cannot be read ({error}); remove it to put all systems into service"
                ) from error

    @property
    def in_service(self) -> list[str]:
        """Names of those that jobs may have."""
        return [name for name in self.names if name not in self.out]

    def take_out(self, name: str, reason: str) -> None:
        """Keep it from jobs. Raises InputError, StorageError."""
        self._save({**self.out, self._known(name): reason})

    def put_in(self, name: str) -> None:
        """Give it to jobs again. Raises InputError, StorageError."""
        self._save({other: why for other, why in self.out.items() if other != self._known(name)})

    def _known(self, name: str) -> str:
        if name not in self.names:
            raise InputError(f"there is no system {name!r}; this cluster has {', '.join(self.names)}")
        return name

    def _save(self, out: dict[str, str]) -> None:
        write_whole(self._file, msgspec.json.encode(out))
        self.out = out
