"""Who calls: the account at the other end of a loopback connection, or whoever a token belongs to.

The client says in metadata who its user is; nobody believes that. A connection from this machine is of the account that the
kernel says. That account must be the node's own, or the call must carry a token: CSAUTH_TOKEN, a JWT whose claim `wafer` is
a token of the appliance (`client_token` makes one).
"""

from __future__ import annotations

import base64
import binascii
import getpass
import ipaddress
import json
import os
import pwd
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from openwafer.compat.appliance._service import CallError

_PEER = re.compile(r"ipv[46]:(?:%5B|\[)?(.+?)(?:%5D|\])?:(\d+)")
_NEVER = 1 << 33
"""When the token says that it expires: the client drops one without a date."""
WhoIs = Callable[[str], "Caller | None"]
"""token -> whose it is."""


class Caller(NamedTuple):
    name: str
    admin: bool
    volumes: tuple[str, ...] = ()
    """Folders that the caller's jobs may mount, in place of the cluster's volumes; (): the cluster's."""

    def may_mount(self, of_cluster: Iterable[Path]) -> list[str]:
        """The folders below which mounts may lie; all, where neither caller nor cluster name any."""
        return list(self.volumes) or [str(folder) for folder in of_cluster] or ["/"]


def client_token(token: str) -> str:
    """A token of the appliance as the client takes it in CSAUTH_TOKEN."""
    parts = ({"alg": "none", "typ": "JWT"}, {"exp": _NEVER, "wafer": token})
    words = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join((*words, ""))


def caller_of(context: Any, who_is: WhoIs) -> Caller:
    """Who made this call. Raises CallError for nobody that may.

    Streams of the client carry no metadata; they name a job, whose id nobody can guess.
    """
    metadata = {key: value for key, value in context.invocation_metadata()}
    if token := str(metadata.get("auth-token", "")):
        found = who_is(_inner(token))
        if found is None:
            raise CallError("UNAUTHENTICATED", "the token in CSAUTH_TOKEN is nobody's; ask for a new one")
        return found
    if peer_uid(context.peer()) == os.getuid():
        return Caller(getpass.getuser(), True)
    raise CallError(
        "UNAUTHENTICATED",
        "this appliance serves the account that it runs under, and whoever shows a token: set CSAUTH_TOKEN to what "
        "`wafer cluster client-token` prints",
    )


def peer_uid(peer: str) -> int | None:
    """The account at the other end of a connection from this very machine; None if it cannot be known.

    peer: as gRPC writes it, `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`.
    """
    match = _PEER.fullmatch(peer)
    if match is None or not ipaddress.ip_address(match[1]).is_loopback:
        return None
    address, port = ipaddress.ip_address(match[1]), int(match[2])
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            host, _, at = words[1].partition(":")
            # An ended connection (state 06) stays a while, as root's.
            if int(at, 16) == port and words[3] == "01" and _address(host) == address:
                return int(words[7])
    return None


def only(*accounts: int) -> Callable[[Any], None]:
    """Admits calls of these accounts of this machine. The client shows a job's own service no token, so this is what keeps
    others from it."""

    def admit(context: Any) -> None:
        if peer_uid(context.peer()) not in accounts:
            raise CallError(
                "PERMISSION_DENIED",
                "this job's service answers the account that submitted the job, and no other",
            )

    return admit


def account(uid: int) -> str:
    """The name of an account, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _address(words: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of /proc/net/tcp: 32-bit words, each with its bytes reversed on this machine."""
    raw = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
    found = ipaddress.ip_address(raw)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def _inner(token: str) -> str:
    """The appliance's token in a JWT, whose signature is nothing to us; or the text itself."""
    words = token.split(".")
    if len(words) != 3:
        return token
    try:
        claims = json.loads(base64.urlsafe_b64decode(words[1] + "=" * (-len(words[1]) % 4)))
    except (ValueError, binascii.Error):
        return token
    found = claims.get("wafer") if isinstance(claims, dict) else None
    return found if isinstance(found, str) else token
