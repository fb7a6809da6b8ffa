"""Everything that can be chosen about a server."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from openwafer.base import InputError
from openwafer.base.web import is_loopback
from openwafer.serve.engine import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """A server over one model. Everything else is the model folder's business, or a request's."""

    folder: Path
    name: str | None = None
    """Under which the model is served; by default the folder's name."""
    aliases: tuple[str, ...] = ()
    any_model: bool = False
    """Answer whatever model a request names."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0: one that is free."""
    key_file: Path | None = None
    cors_origins: tuple[str, ...] = ()
    strict: bool = False
    """Refuse unknown fields in requests."""
    mock: bool = False
    """Refuse no field of a request: what cannot be meant is left out."""
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    """Limits of one client; None: none."""
    execution: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    memory_bytes: int | None = None
    systems: int | None = None
    cache_blocks: int | None = None
    """These six are `open_executor`'s."""
    limits: Limits = field(default_factory=Limits)
    drain_s: float = 30.0
    """How long answers under way may go on when the server ends."""

    def __post_init__(self) -> None:
        """Raises InputError for numbers that cannot be meant."""
        if not 0 <= self.port <= 65535:
            raise InputError(f"port {self.port} does not exist; choose 1 to 65535, or 0 for any that is free")
        if not (math.isfinite(self.drain_s) and self.drain_s >= 0):
            raise InputError(f"answers cannot go on for {self.drain_s} s; give 0 or more")
        for what in ("requests_per_day", "tokens_per_minute"):
            value = getattr(self, what)
            if value is not None and value < 1:
                raise InputError(f"{what} is {value}, so nobody could be served; give at least 1, or none")

    @property
    def model(self) -> str:
        """The name under which the model is served."""
        return self.name or self.folder.resolve().name

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)
