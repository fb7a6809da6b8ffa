"""The agent of a host: joins a coordinator, runs the roles that it is given, and joins again when that is over."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from openwafer.base import InputError, RoleError, RoleLost, StallError, WaferError, logger
from openwafer.cluster._codec import decode_job
from openwafer.cluster._hosts_messages import (
    HOME,
    Begin,
    Carries,
    Cleared,
    Clock,
    Declared,
    End,
    Goodbye,
    Joins,
    Meet,
    Order,
    Refused,
    RoleEnded,
    Started,
    Time,
)
from openwafer.cluster._job import Job
from openwafer.cluster._roles import RoleStart, RunningRole, kind_and_index
from openwafer.cluster._wiring import declare
from openwafer.wire import Connection, HostsTransport, TcpMover, accept, connect, listen

RETRY_S = 0.5
MEET_S = 30.0
"""How long the hosts of an attempt may take to connect to each other."""
LEAVE_S = 2.0
"""How long roles may take to end when the coordinator has gone."""


def serve_host(
    address: str,
    port: int,
    token: bytes,
    *,
    listen_on: str | None = None,
    wait_s: float = 300.0,
    stay: bool = False,
    tell: Callable[[str], None],
) -> None:
    """Be the agent of this host for the run at `address`:`port`, until it ends; with `stay` for run after run.

    A coordinator that is not there yet, or whose connection is cut, is tried for `wait_s` seconds. listen_on: where
    other hosts of the run may connect, if their systems talk to those of this host; None: at the address by which
    this host joins. `tell` gets lines for the user.

    Raises InputError for a wrong token, another version or no openwafer at that port, StallError if nobody is there.
    """
    while True:
        connection = _join(address, port, token, math.inf if stay else wait_s, tell)
        tell(f"joined {address}:{port}")
        agent = _Agent(connection, address, port, token, listen_on, tell)
        try:
            over = agent.run()
        finally:
            agent.leave()
            connection.close()
        if over and not stay:
            return
        tell(
            "the run is over; waiting for the next"
            if over
            else "the coordinator has gone; trying to join again"
        )
        time.sleep(RETRY_S)


def _join(address: str, port: int, token: bytes, wait_s: float, tell: Callable[[str], None]) -> Connection:
    end = time.monotonic() + wait_s
    told = False
    while True:
        try:
            return connect(address, port, token, Joins(socket.gethostname(), os.cpu_count() or 1))
        except (RoleLost, StallError) as error:
            if time.monotonic() > end:
                raise StallError(
                    f"no run waited for hosts at {address}:{port} within {wait_s:.0f} s; start `wafer train` with --hosts "
                    "there, or check host, port and firewall"
                ) from error
            if not told:
                until = "Ctrl-C" if math.isinf(wait_s) else f"{wait_s:.0f} s have passed"
                tell(f"nobody is at {address}:{port} yet; trying until {until}")
                told = True
            time.sleep(RETRY_S)


class _Agent:
    """One stay with a coordinator."""

    def __init__(
        self,
        connection: Connection,
        address: str,
        port: int,
        token: bytes,
        listen_on: str | None,
        tell: Callable[[str], None],
    ) -> None:
        self.connection = connection
        self.address = address
        self.port = port
        self.token = token
        self.listen_on = listen_on or connection.socket.getsockname()[0]
        self.tell = tell
        self.part: _Part | None = None
        self._sending = threading.Lock()

    def run(self) -> bool:
        """Obey until the run is over (True) or the coordinator has gone (False)."""
        try:
            while True:
                order: Order = self.connection.receive(Order)
                if isinstance(order, Goodbye):
                    return True
                if isinstance(order, End):
                    if self.part is not None and self.part.number == order.attempt:
                        self.part.end(order.within_s, "the coordinator ended the attempt")
                        self.part = None
                    self.answer(Cleared(order.attempt))
                    continue
                if isinstance(order, Clock):
                    self.answer(Time(order.attempt, order.asked_s, time.monotonic()))
                    continue
                try:
                    if isinstance(order, Begin):
                        self.leave()
                        self.part = _Part(self, order)
                        self.part.declare()
                    elif self.part is not None:
                        self.part.meet(order)
                except WaferError as error:
                    self.answer(Refused(order.attempt, type(error).__name__, str(error)))
        except RoleLost:
            return False

    def leave(self) -> None:
        """End what still runs here. It ended elsewhere, or will: the other hosts of the attempt see this one as lost."""
        if self.part is not None:
            self.part.transport.leave("the connection to the coordinator was cut")
            self.part.end(LEAVE_S, "the connection to the coordinator was cut")
            self.part = None

    def answer(self, message: object) -> None:
        """Tell the coordinator; any thread may. Raises RoleLost."""
        with self._sending:
            self.connection.send(message)


class _Part:
    """This host's part in one attempt."""

    def __init__(self, agent: _Agent, order: Begin) -> None:
        self.agent = agent
        self.order = order
        self.number = order.attempt
        self.host = order.host
        self.job: Job = decode_job(order.job)
        self.transport = HostsTransport(order.host, order.placement)
        self.roles: list[RunningRole] = []
        self._listener: socket.socket | None = None
        self._watchers: list[threading.Thread] = []
        self._parts: dict[str, dict[str, Connection]] = {}
        self._met: set[str] = set()
        self._changed = threading.Condition()
        self._over = False

    def declare(self) -> None:
        """Make memory and pipes; listen, if another host than the coordinator's is to connect."""
        declare(self.transport, self.job, self.order.placement)
        others = sorted(self.transport.partners - {HOME})
        port = 0
        if others:
            self._listener = listen(self.agent.listen_on, 0)
            port = self._listener.getsockname()[1]
            threading.Thread(target=self._listen, args=(self._listener,), name="meet", daemon=True).start()
        everywhere = self.agent.listen_on in ("0.0.0.0", "::")
        self.agent.answer(Declared(self.number, others, "" if everywhere else self.agent.listen_on, port))

    def meet(self, order: Meet) -> None:
        """Connect to the other hosts, wait for those that connect to us, and start the roles."""
        homes = {HOME: (self.agent.address, self.agent.port), **order.addresses}
        for host, (address, port) in homes.items():
            for part in ("control", "slots"):
                connection = connect(
                    address, port, self.agent.token, Carries(self.number, self.host, part), MEET_S
                )
                self._offer(host, part, connection)
        end = time.monotonic() + MEET_S
        with self._changed:
            while missing := self.transport.partners - self._met:
                self.transport.check()
                self._changed.wait(0.2)
                if time.monotonic() > end:
                    raise RoleLost(
                        f"{', '.join(sorted(missing))} did not connect to {self.host} at {self.agent.listen_on} within "
                        f"{MEET_S:.0f} s; give `wafer host` on {self.host} an address that the others reach (--listen)"
                    )
        mine = [name for name, host in self.order.placement.items() if host == self.host]
        for name in mine:
            kind, index = kind_and_index(name)
            start = RoleStart(name, kind, index, self.order.job, self.transport.endpoints(name))
            self.roles.append(RunningRole(start, self.order.processes))
        self.transport.started()
        for role in self.roles:
            watcher = threading.Thread(
                target=self._watch, args=(role,), name=f"watch {role.name}", daemon=True
            )
            watcher.start()
            self._watchers.append(watcher)
        self.agent.answer(Started(self.number))
        self.agent.tell(f"{self.host} runs {', '.join(mine)}")

    def end(self, within_s: float, why: str) -> None:
        """Wait so long for the roles to end, kill those that run on, and give everything back."""
        if self._over:
            return
        self._over = True
        until = time.monotonic() + within_s
        self.transport.abort(why)
        for watcher, role in zip(self._watchers, self.roles, strict=False):
            watcher.join(max(0.0, until - time.monotonic()))
            if watcher.is_alive() and role.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(role.pid, signal.SIGKILL)
                watcher.join()
        self.transport.close()
        if self._listener is not None:
            Connection(self._listener, "").close()
        for parts in self._parts.values():
            for connection in parts.values():
                connection.close()

    def _watch(self, role: RunningRole) -> None:
        while not role.join(3600.0):
            pass
        with suppress(RoleLost):  # then nobody is left to tell
            self.agent.answer(RoleEnded(self.number, role.name, role.ending))

    def _listen(self, listener: socket.socket) -> None:
        while not self._over:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._admit, args=(sock,), daemon=True).start()

    def _admit(self, sock: socket.socket) -> None:
        purpose: Carries
        try:
            connection, purpose = accept(sock, self.agent.token, Carries)
        except (InputError, RoleError) as error:
            logger(self.host).info("a connection came to nothing", error=str(error))
            return
        if purpose.attempt != self.number or purpose.host not in self.transport.partners:
            connection.close()
            return
        self._offer(purpose.host, purpose.part, connection)

    def _offer(self, host: str, part: str, connection: Connection) -> None:
        with self._changed:
            parts = self._parts.setdefault(host, {})
            parts[part] = connection
            if set(parts) == {"control", "slots"} and not self._over:
                self.transport.connect(host, parts["control"].socket, TcpMover(parts["slots"].socket))
                self._parts[host] = {}
                self._met.add(host)
                self._changed.notify_all()
