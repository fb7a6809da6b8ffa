"""Ray itself, as far as the engine uses it: loaded when needed, its nodes, their keepers, and groups of systems."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple, final

from openwafer.appliance.ray._keeper import Keeper
from openwafer.base import EngineError, InputError, logger

SYSTEM = "wafer_system"
"""The resource by which a Ray node says how many systems it offers (`ray start --resources '{"wafer_system": 2}'`)."""
NAMESPACE = "openwafer"
_FRESH_S = 0.5
_ANSWER_S = 5.0
_JOIN_S = 40.0
"""For all that a node does to join; about 2 s."""
_ROOM_S = 3.0
_LOG = logger("ray")


class RayNode(NamedTuple):
    """A node that Ray counts as alive."""

    id: str
    name: str
    address: str
    systems: int
    cpus: int


@final
class Nodes:
    """The Ray cluster at an address. Raises InputError if `ray` is not installed, nobody is there, or nothing offers a system."""

    def __init__(self, address: str, systems: int | None) -> None:
        """systems: how many the nodes' CPUs are to be shared among, if no node says that it offers any; None: one a node."""
        self.ray = _load()
        self._began = not self.ray.is_initialized()
        if self._began:
            _connect(self.ray, address)
        self._keepers: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._known: dict[str, RayNode] = {}
        self._read_at = 0.0
        raw = [node for node in self.ray.nodes() if node["Alive"]]
        if any(node["Resources"].get(SYSTEM) for node in raw):
            self.unit = {SYSTEM: 1.0}
        else:
            cpus = [int(node["Resources"].get("CPU", 0)) for node in raw]
            share = (
                min((count for count in cpus if count), default=0)
                if systems is None
                else sum(cpus) // systems
            )
            self.unit = {"CPU": float(max(1, share))}
        self.home = str(self.ray.get_runtime_context().get_node_id())
        if not sum(node.systems for node in self.alive(fresh=True).values()):
            self.close()
            raise InputError(
                f"no node of the Ray cluster at {address} offers a system: start nodes with --resources "
                f"'{{\"{SYSTEM}\": 1}}', or with CPUs"
            )

    @property
    def asks_for_token(self) -> bool:
        """Whether Ray lets in only who knows its token: without one, whoever reaches its ports runs programs."""
        return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"

    def close(self) -> None:
        """Leave the cluster; keepers and jobs stay."""
        if self._began:
            self.ray.shutdown()

    def alive(self, *, fresh: bool = False) -> dict[str, RayNode]:
        """The nodes by id, as Ray knew them half a second ago, or now."""
        with self._lock:
            if fresh or time.monotonic() - self._read_at > _FRESH_S:
                try:
                    raw = [node for node in self.ray.nodes() if node["Alive"]]
                except Exception as error:  # Ray names no common class; what was known is the best there is
                    _LOG.warning("Ray does not say which nodes it has", error=str(error))
                else:
                    self._known = {node["NodeID"]: self._node(node) for node in raw}
                self._read_at = time.monotonic()
            return self._known

    def _node(self, raw: dict[str, Any]) -> RayNode:
        resource, amount = next(iter(self.unit.items()))
        return RayNode(
            id=raw["NodeID"],
            name=raw["NodeManagerHostname"],
            address=raw["NodeManagerAddress"],
            systems=int(raw["Resources"].get(resource, 0.0) // amount),
            cpus=int(raw["Resources"].get("CPU", 0)),
        )

    # --- calls ------------------------------------------------------------------------------------------------

    def send(self, node: str, method: str, *words: object) -> Any:
        """Call the keeper of a node, without waiting. Raises EngineError."""
        try:
            keeper = self._keepers.get(node)
            if keeper is None:
                keeper = self._keepers[node] = self._make_keeper(node)
            return getattr(keeper, method).remote(*words)
        except Exception as error:
            self._keepers.pop(node, None)
            raise self._failed(node, error) from error

    def take(self, node: str, sent: Any, timeout_s: float) -> Any:
        """What a call came to. Raises EngineError if that does not come."""
        try:
            return self.ray.get(sent, timeout=timeout_s)
        except Exception as error:
            self._keepers.pop(node, None)
            raise self._failed(node, error) from error

    def call(self, node: str, method: str, *words: object, timeout_s: float = 20.0) -> Any:
        """`send` and `take`."""
        return self.take(node, self.send(node, method, *words), timeout_s)

    def is_there(self, sent: Any) -> bool:
        """Whether `take` would not wait."""
        ready, _ = self.ray.wait([sent], timeout=0.02)
        return bool(ready)

    def _make_keeper(self, node: str) -> Any:
        scheduling = importlib.import_module("ray.util.scheduling_strategies")
        return (
            self.ray.remote(Keeper)
            .options(
                name=f"keeper-{node}",
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                num_cpus=0,
                max_restarts=-1,
                scheduling_strategy=scheduling.NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote()
        )

    def _failed(self, node: str, error: Exception) -> EngineError:
        known = self._known.get(node)
        where = f"{known.name} ({known.address})" if known else f"Ray node {node[:12]}"
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return EngineError(
            f"{where} does not answer: {first}; see `ray status`, and that openwafer is installed there"
        )

    # --- groups -----------------------------------------------------------------------------------------------

    def take_systems(self, owner: str, count: int) -> tuple[str, list[tuple[RayNode, int]]]:
        """Room for so many systems: on one node if one has it, else over several, those with most of them first.

        Returns the group's name, for `free_systems`. Raises EngineError if there is no room now.
        """
        groups = importlib.import_module("ray.util.placement_group")
        self.free_systems(owner)
        widest = max((node.systems for node in self.alive(fresh=True).values()), default=0)
        for strategy in ("STRICT_PACK", "SPREAD") if count <= widest else ("SPREAD",):
            name = f"{owner}/{secrets.token_hex(4)}"
            group = groups.placement_group(
                [self.unit] * count, strategy=strategy, name=name, lifetime="detached"
            )
            if group.wait(timeout_seconds=_ROOM_S):
                places = Counter(groups.placement_group_table(group)["bundles_to_node_id"].values())
                alive = self.alive(fresh=True)
                if all(node in alive for node in places):
                    return name, [(alive[node], systems) for node, systems in places.most_common()]
            groups.remove_placement_group(group)
        raise EngineError(
            f"the Ray cluster has no room for {count} systems now ({next(iter(self.unit))}: see `ray status`); another "
            "program may have taken it"
        )

    def free_systems(self, name: str) -> None:
        """Give back the group of this name, or all of an owner."""
        groups = importlib.import_module("ray.util.placement_group")
        with suppress(
            Exception
        ):  # Ray gone: its groups have gone with it, or are given back at the owner's next start
            for id, told in groups.placement_group_table().items():
                if told["state"] != "REMOVED" and (
                    told["name"] == name or told["name"].startswith(name + "/")
                ):
                    groups.remove_placement_group(groups.PlacementGroup(groups.PlacementGroupID.from_hex(id)))


def _load() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError(
            "the Ray engine needs the package `ray`, which is not installed here: pip install 'openwafer[ray]'"
        ) from error


def _connect(ray: Any, address: str) -> None:
    """In a thread: Ray would take SIGTERM for itself in the main one, and waits minutes for a cluster that has ended."""
    logging.getLogger("ray").addHandler(logging.NullHandler())  # else Python prints what Ray says to nobody
    failures: list[Exception] = []
    thread = threading.Thread(target=_join, args=(ray, address, failures), name="join Ray", daemon=True)
    thread.start()
    thread.join(_JOIN_S)
    if thread.is_alive():
        first = f"nobody answered within {_JOIN_S:g} s"
    elif failures:
        first = (str(failures[0]).strip() or type(failures[0]).__name__).splitlines()[0]
    else:
        return
    raise InputError(
        f"no Ray cluster can be joined at {address!r}: {first}; run `ray start --head` on one machine and "
        "`ray start --address` on the others, this one among them"
    )


def _join(ray: Any, address: str, failures: list[Exception]) -> None:
    try:
        if address == "local" or "://" in address:  # one that ends with this process, or calls by proxy
            raise InputError("give auto, or the HOST:PORT that `ray start --head` prints")
        host, _, port = address.rpartition(":")
        if port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray names no common class
        failures.append(error)
