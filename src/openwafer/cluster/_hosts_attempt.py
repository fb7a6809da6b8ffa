"""One attempt of a run on its hosts: who runs what there, from the first order to the last answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from openwafer.artifact import Plan
from openwafer.base import RoleError, RoleLost
from openwafer.cluster._codec import encode_job
from openwafer.cluster._failures import rebuild_error
from openwafer.cluster._hosts_messages import (
    HOME,
    Answer,
    Begin,
    Carries,
    Cleared,
    Clock,
    Declared,
    End,
    Meet,
    Order,
    Refused,
    Started,
    Time,
)
from openwafer.cluster._job import Job, memoryx, system_role
from openwafer.cluster._messages import Failed
from openwafer.cluster._wiring import COORDINATOR, declare, role_names
from openwafer.wire import Connection, HostsTransport, TcpMover

BEGIN_S = 60.0
"""How long hosts may take to make memory and connections ready for an attempt."""
CLOCK_ROUNDS = 5
SETTLE_S = 3.0
"""What a host may take beyond the time that it gives its roles to end."""
A = TypeVar("A", Declared, Started, Time, Cleared)


@dataclass(eq=False)
class Agent:
    """One host that joined."""

    host: str
    name: str
    address: str
    cores: int
    connection: Connection
    answers: dict[type, Answer] = field(default_factory=dict)
    """The last of each kind, of the attempt in progress."""
    gone: str = ""
    """Why it is no longer there."""

    def __str__(self) -> str:
        return f"{self.host} ({self.name}, {self.address})"


class RemoteRole:
    """A role on another host; the interface of RunningRole."""

    def __init__(self, name: str, agent: Agent, lost: Mapping[str, str]) -> None:
        """lost: the hosts that the transport lost, and why."""
        self.name = name
        self.agent = agent
        self._lost = lost
        self.pid: int | None = None
        self._how = ""
        self._ended = threading.Event()

    def end(self, how: str) -> None:
        """Note that it ended, and how."""
        self._how = self._how or how
        self._ended.set()

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    @property
    def ending(self) -> str:
        """How it ended, in words, with its host."""
        why = self._lost.get(self.agent.host)
        how = self._how or (f"was lost with its host: {why}" if why else "ended")
        return f"on {self.agent} {how}"

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; True if it came."""
        return self._ended.wait(timeout_s)

    def kill(self) -> None:
        """Its agent kills what does not end in time."""


class Attempt:
    """One attempt of a run on its hosts: a transport, and the roles elsewhere."""

    def __init__(self, number: int, job: Job, homes: dict[str, Agent], changed: threading.Condition) -> None:
        self.number = number
        self.job = job
        self.homes = homes
        self.agents = list(dict.fromkeys(homes.values()))
        self.placement = dict.fromkeys((COORDINATOR, *role_names(job.plan)), HOME)
        self.placement.update({name: agent.host for name, agent in homes.items()})
        self.transport = HostsTransport(HOME, self.placement)
        self.roles = {name: RemoteRole(name, agent, self.transport.lost) for name, agent in homes.items()}
        self.clock_ahead_s: dict[str, float] = {}
        """By role: how far the monotonic clock of its host is ahead of this one's; right to a round trip."""
        self._changed = changed
        self._parts: dict[str, dict[str, Connection]] = {agent.host: {} for agent in self.agents}
        self._over = False

    def begin(self, processes: bool) -> None:
        """Bring every host to where its roles run. Raises what one of them reports, RoleLost."""
        declare(self.transport, self.job, self.placement)
        job = encode_job(self.job)
        for agent in self.agents:
            self._order(agent, Begin(self.number, agent.host, job, self.placement, processes))
        declared = {agent.host: self._await(agent, Declared) for agent in self.agents}
        addresses = {
            agent.host: (declared[agent.host].address or agent.address, declared[agent.host].port)
            for agent in self.agents
            if declared[agent.host].port
        }
        for agent in self.agents:
            wanted = {
                host: addresses[host]
                for host in declared[agent.host].partners
                if host in addresses and host < agent.host
            }
            self._order(agent, Meet(self.number, wanted))
        for agent in self.agents:
            self._await(agent, Started)
        self._compare_clocks()

    def _compare_clocks(self) -> None:
        for agent in self.agents:
            best_s, ahead_s = math.inf, 0.0
            for _ in range(CLOCK_ROUNDS):
                asked_s = time.monotonic()
                self._order(agent, Clock(self.number, asked_s))
                time_there = self._await(agent, Time)
                took_s = time.monotonic() - asked_s
                with self._changed:
                    del agent.answers[Time]
                if took_s < best_s:
                    best_s = took_s
                    ahead_s = time_there.there_s - asked_s - took_s / 2
            self.clock_ahead_s.update({name: ahead_s for name, home in self.homes.items() if home is agent})

    def offer(self, purpose: Carries, connection: Connection) -> bool:
        """Take a connection of one of the hosts; False if it belongs to none."""
        with self._changed:
            parts = self._parts.get(purpose.host)
            if purpose.attempt != self.number or parts is None or self._over:
                return False
            parts[purpose.part] = connection
            if set(parts) == {"control", "slots"}:
                self.transport.connect(purpose.host, parts["control"].socket, TcpMover(parts["slots"].socket))
                self._parts[purpose.host] = {}
        return True

    def end(self, within_s: float) -> None:
        """Have every host end its roles, killing those that take longer; hosts that do not answer are given up."""
        with self._changed:
            if self._over:
                return
            self._over = True
        for agent in self.agents:
            if agent.host in self.transport.lost and not agent.gone:
                agent.gone = self.transport.lost[agent.host]
                agent.connection.close()
        for agent in self.agents:
            try:
                self._order(agent, End(self.number, within_s))
            except RoleLost:
                continue
        until = time.monotonic() + within_s + SETTLE_S
        for agent in self.agents:
            try:
                self._await(agent, Cleared, max(0.0, until - time.monotonic()))
            except RoleError:
                agent.gone = agent.gone or "it did not end its roles in time"
                agent.connection.close()
            self.lose(agent, agent.gone or "ended")
        with self._changed:
            for parts in self._parts.values():
                for connection in parts.values():
                    connection.close()

    def lose(self, agent: Agent, how: str = "") -> None:
        """Every role of this agent has ended; with the agent, unless told how."""
        if agent not in self.agents:
            return
        if not how:
            self.transport.drop(agent.host, agent.gone)
        for role in self.roles.values():
            if role.agent is agent:
                role.end(how or f"was lost with its host: {agent.gone}")

    def _order(self, agent: Agent, order: Order) -> None:
        try:
            agent.connection.send(order)
        except RoleLost:
            raise self._lost(agent) from None

    def _await(self, agent: Agent, kind: type[A], timeout_s: float = BEGIN_S) -> A:
        """An agent's answer. Raises RoleLost, and what the agent reports instead."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while kind not in agent.answers:
                refused = agent.answers.get(Refused)
                if isinstance(refused, Refused) and kind is not Cleared:
                    raise rebuild_error(Failed(str(agent), refused.kind, refused.text, ""))
                left = end - time.monotonic()
                if agent.gone or left <= 0:
                    agent.gone = agent.gone or f"it said nothing for {timeout_s:.0f} s"
                    raise self._lost(agent)
                self._changed.wait(left)
            answer = agent.answers[kind]
            assert isinstance(answer, kind)
            return answer

    def _lost(self, agent: Agent) -> RoleLost:
        return RoleLost(
            f"{agent} was lost while the job began or ended: {agent.gone or 'the connection to its agent was cut'}; see its "
            "log, start `wafer host` there again, or run with fewer hosts (--hosts)"
        )


def place(plan: Plan, agents: list[Agent]) -> dict[str, Agent]:
    """The agent of every role that is not at home.

    Systems: neighbours together, as evenly as it goes. MemoryX shards but the first, which has the checkpoints: in turn.
    """
    count = len(plan.systems)
    used = agents[:count]
    homes = {system_role(index): used[index * len(used) // count] for index in range(count)}
    for shard in range(1, len(plan.memoryx_records)):
        homes[memoryx(shard)] = agents[(shard - 1) % len(agents)]
    return homes
