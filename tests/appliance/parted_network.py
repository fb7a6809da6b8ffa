"""Hosts on this machine whose cables can be cut: each has a network of its own, joined to the others by a bridge."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_LIBC = ctypes.CDLL(None, use_errno=True)


class Network:
    """Hosts have numbers from 1, and addresses of their own. Raises OSError where this account may not make networks.

    A process that is started within `at` stays on that host. The networks end with the last process in them.
    """

    def __init__(self, hosts: int) -> None:
        if shutil.which("ip") is None:
            raise FileNotFoundError("the command ip (iproute2) is not installed")
        self._subnet = (
            f"10.77.{os.getpid() % 250}"  # Ray takes two clusters of one address on one machine for one
        )
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._hosts = [self._make() for _ in range(hosts + 1)]
        with self._inside(self._hosts[0]):
            _ip("link add bridge type bridge")
            _ip("link set bridge up")
            for number in range(1, hosts + 1):
                place = f"/proc/{os.getpid()}/fd/{self._hosts[number]}"
                _ip(f"link add cable{number} type veth peer name eth0 netns {place}")
                _ip(f"link set cable{number} master bridge up")
        for number in range(1, hosts + 1):
            with self.at(number):
                _ip("link set lo up")
                _ip(f"addr add {self.address(number)}/24 dev eth0")
                _ip("link set eth0 up")

    def address(self, host: int) -> str:
        """The address of a host."""
        return f"{self._subnet}.{host}"

    def at(self, host: int) -> AbstractContextManager[None]:
        """Within this, the calling thread and what it starts are on a host."""
        return self._inside(self._hosts[host])

    def set_cable(self, host: int, *, whole: bool) -> None:
        """Cut the cable of a host, or mend it. Nobody is told: packets vanish."""
        with self._inside(self._hosts[0]):
            _ip(f"link set cable{host} {'up' if whole else 'down'}")

    def processes(self, host: int) -> set[int]:
        """The ids of all processes on a host."""
        name = os.readlink(f"/proc/self/fd/{self._hosts[host]}")
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.readlink(entry / "ns" / "net") == name:
                        found.add(int(entry.name))
                except OSError:
                    continue
        return found

    def close(self) -> None:
        """Let go of the networks."""
        for descriptor in (*self._hosts, self._own):
            os.close(descriptor)

    def _make(self) -> int:
        if _LIBC.unshare(_NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "a network of its own cannot be made")
        try:
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            self._enter(self._own)

    @contextmanager
    def _inside(self, network: int) -> Iterator[None]:
        self._enter(network)
        try:
            yield
        finally:
            self._enter(self._own)

    def _enter(self, network: int) -> None:
        if _LIBC.setns(network, _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "that network cannot be entered")


def _ip(words: str) -> None:
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {words}: {done.stderr.strip()}")
