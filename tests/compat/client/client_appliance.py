"""An appliance in this process, and programs of the vendor's client against it in the client's own environment."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PYTHON = os.environ.get("OPENWAFER_TEST_CLIENT", "")
PROGRAMS = Path(__file__).parent / "programs"
LEASE_S = 40.0

needs_client = [
    pytest.mark.skipif(not PYTHON, reason="OPENWAFER_TEST_CLIENT names no client environment"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


class Appliance:
    """Two systems, and a door for clients."""

    def __init__(self, folder: Path) -> None:
        from openwafer.appliance import ManagementNode, NodeConfig
        from openwafer.compat.appliance import ClientDoor

        self.node = ManagementNode(NodeConfig(folder=folder, systems=2, grace_s=20))
        self.door = ClientDoor(self.node, lambda token: None, 0, lease_s=LEASE_S)

    def close(self) -> None:
        self.door.close()
        self.node.drain()
        self.node.close()

    def start(self, program: str, folder: Path, *options: str, backend: str = "CSX") -> subprocess.Popen[str]:
        """A program of `programs/`, on the appliance or on the client's own CPU backend."""
        command = [PYTHON, str(PROGRAMS / f"{program}.py"), "--backend", backend, "--folder", str(folder)]
        return in_client([*command, "--address", self.door.address, *options])

    def losses(self, program: str, folder: Path, *options: str, backend: str = "CSX") -> list[float]:
        """What a program notes of its steps when it has ended."""
        finish(self.start(program, folder, *options, backend=backend))
        found: list[float] = json.loads((folder / "losses.json").read_text())
        return found


def in_client(command: list[str], folder: Path | None = None) -> subprocess.Popen[str]:
    """A command in the client's environment, whose programs must be found by name."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(PYTHON).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What a command printed, when it has succeeded."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    return output


def wait_until(there: Callable[[], bool], seconds: float) -> None:
    """Fails after `seconds`."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
