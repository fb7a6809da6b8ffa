"""What a coordinator and the agents of other hosts tell each other, beside what roles do."""

from __future__ import annotations

import msgspec

HOME = "host0"
"""The coordinator's own host, where MemoryX and the input workers run too."""


class Joins(msgspec.Struct, frozen=True, tag="joins"):
    """The purpose of an agent's connection: it offers its host."""

    name: str
    cores: int


class Carries(msgspec.Struct, frozen=True, tag="carries"):
    """The purpose of a connection between two hosts of an attempt: `part` is `control` or `slots`."""

    attempt: int
    host: str
    part: str


Purpose = Joins | Carries


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Make ready to run this host's roles of a job."""

    attempt: int
    host: str
    """The name that this host has in the attempt."""
    job: bytes
    placement: dict[str, str]
    processes: bool


class Meet(msgspec.Struct, frozen=True, tag="meet"):
    """All hosts have declared: connect to these, by name, then start the roles."""

    attempt: int
    addresses: dict[str, tuple[str, int]]


class Clock(msgspec.Struct, frozen=True, tag="clock"):
    """Say what time it is there; `asked_s` comes back."""

    attempt: int
    asked_s: float


class End(msgspec.Struct, frozen=True, tag="end"):
    """The attempt is over: wait so long for its roles to end, then kill them."""

    attempt: int
    within_s: float


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The run is over."""


Order = Begin | Meet | Clock | End | Goodbye


class Declared(msgspec.Struct, frozen=True, tag="declared"):
    """Memory and pipes are there; other hosts may connect to `port`, if the host has partners among them.

    address: where, if not at the address from which the host joined.
    """

    attempt: int
    partners: list[str]
    address: str
    port: int


class Started(msgspec.Struct, frozen=True, tag="started"):
    """Every connection stands and every role was started."""

    attempt: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The host cannot take its part: the class of the error and its text."""

    attempt: int
    kind: str
    text: str


class Time(msgspec.Struct, frozen=True, tag="time"):
    """The host's monotonic clock, in seconds, when `Clock` came."""

    attempt: int
    asked_s: float
    there_s: float


class RoleEnded(msgspec.Struct, frozen=True, tag="role_ended"):
    """A role of this host has ended; how, in words."""

    attempt: int
    role: str
    ending: str


class Cleared(msgspec.Struct, frozen=True, tag="cleared"):
    """Nothing of the attempt is left on this host."""

    attempt: int


Answer = Declared | Started | Refused | Time | RoleEnded | Cleared

# Before any thread decodes one: msgspec's first look into a type is not safe between threads (see _codec).
for _kind in (Purpose, Order, Answer):
    msgspec.msgpack.Decoder(_kind)
