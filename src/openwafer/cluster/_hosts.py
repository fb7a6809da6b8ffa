"""The hosts of a run, as its coordinator sees them: agents that join, come back, and run one attempt after another."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from openwafer.base import InputError, RoleError, RoleLost, StallError, WaferError, logger
from openwafer.cluster._hosts_attempt import Agent, Attempt, place
from openwafer.cluster._hosts_messages import Answer, Goodbye, Joins, Purpose, RoleEnded
from openwafer.cluster._job import Job
from openwafer.cluster._wiring import COORDINATOR
from openwafer.wire import Connection, accept, listen

SEND_S = 20
"""How long an agent may take nothing of an order before it is given up."""
REJOIN_S = 5.0
"""How long a run that lost a host waits for another before it goes on with those that are left."""


class Hosts:
    """Waits for agents, and runs the systems of one attempt after another on them. Use as a context manager.

    `tell` gets lines for the user, in the thread that calls `begin`. Raises InputError if the port is taken.
    """

    def __init__(
        self,
        address: str,
        port: int,
        token: bytes,
        wanted: int,
        join_s: float,
        tell: Callable[[str], None],
        *,
        token_words: str = "",
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """token_words: what the command that joins says of the token, for the user to copy. stopping: whether the user
        wants to end, so that waiting for agents is over: it raises KeyboardInterrupt then."""
        self.wanted = wanted
        self.join_s = join_s
        self._tell = tell
        self._lines: deque[str] = deque()
        self.log = logger(COORDINATOR)
        self._token = token
        self._token_words = token_words
        self._stopping = stopping
        self._changed = threading.Condition()
        self._agents: list[Agent] = []
        self._joined = 0
        self._attempt: Attempt | None = None
        self._attempts = 0
        self._closed = False
        self._listener = listen(address, port)
        self.address, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._listen, name="hosts", daemon=True).start()

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Send the agents home. A second call does nothing."""
        with self._changed:
            self._closed = True
            agents, self._agents = self._agents, []
        for agent in agents:
            agent.gone = agent.gone or "the run ended"
            try:
                agent.connection.send(Goodbye())
            except RoleLost:
                continue
            finally:
                agent.connection.close()
        Connection(self._listener, "").close()

    def gather(self) -> list[Agent]:
        """Wait for the agents that the run wants; after a loss it goes on with fewer, if no other comes soon.

        Raises StallError if too few come for a first attempt, or none for a later one.
        """
        first = not self._attempts
        begun = time.monotonic()
        told = -1
        with self._changed:
            while len(self._agents) < self.wanted:
                here = len(self._agents)
                left = begun + (self.join_s if first or not here else REJOIN_S) - time.monotonic()
                if left <= 0:
                    break
                self._tell_all()
                if here != told:
                    told = here
                    self._tell(
                        f"waiting for {self.wanted - here} of {self.wanted} hosts, {left:.0f} s at most; on each: "
                        f"wafer host --join {self._reachable()}:{self.port}{self._token_words}"
                    )
                self._changed.wait(min(left, 0.5))
                if self._stopping():
                    raise KeyboardInterrupt
            agents = list(self._agents)
            self._tell_all()
        if first and len(agents) < self.wanted:
            raise StallError(
                f"{len(agents)} of {self.wanted} hosts joined at {self.address}:{self.port} within {self.join_s:.0f} s; start "
                "`wafer host --join` on the others, with the same token file, or ask for fewer (--hosts)"
            )
        if not agents:
            raise StallError(  # and not RoleLost, after which a run would only wait once more
                f"every host was lost, and none joined at {self.address}:{self.port} within {self.join_s:.0f} s; the last "
                "checkpoint is intact: run the same command again with --resume, with hosts that join"
            )
        return agents[: self.wanted]

    def begin(self, job: Job, processes: bool) -> Attempt:
        """Have agents make ready for a job and start their roles.

        processes: whether those roles are processes of their own. Raises what an agent reports, RoleLost if one ends, and as
        `gather`.
        """
        agents = self.gather()
        self._attempts += 1
        attempt = Attempt(self._attempts, job, place(job.plan, agents), self._changed)
        for agent in attempt.agents:
            roles = ", ".join(name for name, home in attempt.homes.items() if home is agent)
            self._tell(f"{agent} runs {roles}")
        with self._changed:
            for agent in attempt.agents:
                agent.answers.clear()
            self._attempt = attempt
        try:
            attempt.begin(processes)
        except BaseException as error:
            attempt.transport.abort(str(error))
            attempt.end(0.0)
            attempt.transport.close()
            raise
        return attempt

    def _reachable(self) -> str:
        """Where others find this host: its name, if it listens at all its addresses."""
        address = socket.gethostname() if self.address in ("0.0.0.0", "::") else self.address
        return f"[{address}]" if ":" in address else address

    def _note(self, line: str) -> None:
        """Keep a line for the user until the thread that waits for hosts tells it: `tell` is not for any thread."""
        self.log.info(line)
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def _tell_all(self) -> None:
        while self._lines:
            self._tell(self._lines.popleft())

    # --- what comes in --------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closed:
            try:
                sock, address = self._listener.accept()
            except OSError as error:
                if not self._closed:  # say, too many open files: later there may be fewer
                    self.log.warning("a connection could not be taken", error=str(error))
                    time.sleep(1.0)
                continue
            threading.Thread(target=self._admit, args=(sock, address[0]), daemon=True).start()

    def _admit(self, sock: socket.socket, address: str) -> None:
        purpose: Purpose
        try:
            connection, purpose = accept(sock, self._token, Purpose)
        except InputError as error:
            self._note(f"refused a connection from {address}: {error}")
            return
        except WaferError as error:
            self.log.info("a connection came to nothing", address=address, error=str(error))
            return
        if isinstance(purpose, Joins):
            self._serve(purpose, connection, address)
            return
        with self._changed:
            attempt = self._attempt
        if attempt is None or not attempt.offer(purpose, connection):
            connection.close()

    def _serve(self, purpose: Joins, connection: Connection, address: str) -> None:
        """Listen to one agent until it goes."""
        connection.limit_sends(SEND_S)
        with self._changed:
            self._joined += 1
            agent = Agent(f"host{self._joined}", purpose.name, address, purpose.cores, connection)
            closed = self._closed
            if not closed:
                self._note(f"{agent} joined, with {agent.cores} cores")
                self._agents.append(agent)
        if closed:
            connection.close()
            return
        try:
            while True:
                self._take(agent, connection.receive(Answer))
        except RoleError as error:
            why = "the connection to its agent was cut" if isinstance(error, RoleLost) else str(error)
        self._lose(agent, why)

    def _take(self, agent: Agent, answer: Answer) -> None:
        with self._changed:
            attempt = self._attempt
            if attempt is None or answer.attempt != attempt.number:
                return
            if isinstance(answer, RoleEnded):
                attempt.roles[answer.role].end(answer.ending)
            else:
                agent.answers[type(answer)] = answer
            self._changed.notify_all()

    def _lose(self, agent: Agent, why: str) -> None:
        with self._changed:
            agent.gone = agent.gone or why
            if agent in self._agents:
                self._agents.remove(agent)
            attempt = self._attempt
            self._changed.notify_all()
        agent.connection.close()
        if attempt is not None:
            attempt.lose(agent)
