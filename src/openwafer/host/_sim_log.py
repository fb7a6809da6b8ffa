"""sim.log: what programs print, a line with its cycle, as existing scripts read it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from openwafer.artifact._image import Image
from openwafer.base import StorageError


class SimLog:
    """Writes lines as they come, so that a program that stalls has told what it did."""

    def __init__(self, image: Image, path: Path) -> None:
        self._path = path
        width, height = image.fabric
        self._write("w", [f"@0 Architecture is: {image.architecture}", f"@0 dimX={width}, dimY={height}"])

    def lines(self, prints: Iterable[tuple[int, int, int, str]]) -> None:
        """Add what PEs have printed: cycle, x, y, text."""
        self._write("a", [f"@{cycle} {line}" for cycle, _, _, text in prints for line in text.splitlines()])

    def note(self, cycle: int, text: str) -> None:
        """Add lines of the simulator's own."""
        self._write("a", [f"@{cycle} {line}" for line in text.splitlines()])

    def _write(self, mode: str, lines: list[str]) -> None:
        if not lines:
            return
        try:
            with self._path.open(mode, encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be written: {error.strerror}; run in a folder that can be written to"
            ) from error
