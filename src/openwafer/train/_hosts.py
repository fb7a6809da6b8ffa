"""A cluster of several hosts: its configuration, and the agents that one run waits for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from openwafer.base import InputError
from openwafer.cluster import Hosts, read_token
from openwafer.train._config import LocalCluster, _at_least, cores


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsCluster(LocalCluster):
    """A cluster whose systems run on other hosts: wherever `wafer host --join` was started for this run.

    MemoryX, the input workers and the coordinator run here, and so do the data, the store and the run folder; systems
    are spread over the hosts that joined, neighbours together. With `memoryx_shards` the first MemoryX shard is here and
    the others are on the hosts in turn, so that the weights and their state need not fit one host; a disk store is then in
    a folder `disk:/path` that can be made on every host. Every host needs the same version of openwafer and a copy of the
    token file, but neither the recipe nor the data. To compute here too, start an agent here.

    A host that is lost is RoleLost: the run waits a moment for another to join, and goes on from its last checkpoint
    with those that are there, to the same numbers.

    Raises InputError for a value that no cluster can have.
    """

    hosts: int = 1
    """Agents to wait for before the run begins."""
    listen: str = "127.0.0.1"
    """The address of this host at which agents join. The default lets only agents of this machine in; what crosses a
    network is not encrypted."""
    port: int = 7777
    """0: any free port, which the log names."""
    token_file: str | None = None
    """Holds the secret that an agent must know; made if it is missing. None: `~/.config/openwafer/token`."""
    join_s: float = 300.0
    """How long to wait for the agents."""

    def __post_init__(self) -> None:
        LocalCluster.__post_init__(self)
        _at_least("HostsCluster", "hosts", self.hosts, 1)
        _at_least("HostsCluster", "port", self.port, 0)
        if self.port > 65535:
            raise InputError(f"HostsCluster: port is {self.port}, but the highest is 65535")
        if not self.listen:
            raise InputError("HostsCluster: listen is empty; give an address of this host, such as 127.0.0.1")
        if self.shards > 1 and any(not folder.is_absolute() for folder in self.store_folders(Path())):
            raise InputError(
                f"HostsCluster: memoryx is {self.memoryx!r} with {self.shards} shards, which lie on other hosts too; name a "
                "folder that can be made on every host, as disk:/path"
            )
        if not self.join_s > 0:
            raise InputError(f"HostsCluster: join_s is {self.join_s!r}, but it must be above 0 seconds")

    @property
    def uses_processes(self) -> bool:
        """Whether roles are processes: MemoryX here and systems on their hosts. With `processes=False` they are threads."""
        return self.processes is not False

    @property
    def threads_per_system(self) -> int:
        """`threads`; None: the cores of this machine, as if the hosts were like it, over the systems of one host."""
        if self.threads is not None:
            return self.threads
        return max(1, cores() // -(-self.systems // self.hosts))


def open_hosts(
    cluster: LocalCluster, tell: Callable[[str], None], stopping: Callable[[], bool]
) -> AbstractContextManager[Hosts | None]:
    """What waits for the agents of a run and keeps them from attempt to attempt; None for a cluster of this machine.

    stopping: whether the user asked to end, which ends the waiting.
    """
    if not isinstance(cluster, HostsCluster):
        return nullcontext()
    token = read_token(cluster.token_file, make=True)
    return Hosts(
        cluster.listen,
        cluster.port,
        token,
        cluster.hosts,
        cluster.join_s,
        tell,
        token_words=f" --token-file {cluster.token_file}" if cluster.token_file else "",
        stopping=stopping,
    )
