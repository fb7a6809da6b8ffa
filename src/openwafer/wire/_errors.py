"""What a blocked call may end with, besides RoleLost and StallError."""

from __future__ import annotations

from openwafer.base import RoleError


class Aborted(RoleError):  # noqa: N818 - reads as the event it is
    """The transport was aborted or closed, or the process that owns it ended; the text holds the reason."""


class PeerGone(Exception):  # noqa: N818 - never leaves the package: callers see RoleLost
    """The other end of a channel was closed and nothing is left to read."""
