"""What a server offers and to whom: one frozen value, given to `make_app`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openwafer.base import MIB, InputError

KEYS_VARIABLE = "WAFER_API_KEYS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about the interface that is not in a request."""

    model: str
    """The name under which the model is served."""
    context_tokens: int
    """The longest prompt and answer together."""
    aliases: tuple[str, ...] = ()
    """Other names of the same model."""
    any_model: bool = False
    """Answer to every model name; for programs that have one written into them."""
    owned_by: str = "openwafer"
    created: int = 0
    """Unix time that the model lists show."""
    dtype: str = "bf16"
    """Shown in model lists, and part of the fingerprint."""
    version: str = ""
    """Part of the fingerprint."""
    strict: bool = False
    """Refuse unknown fields, as the public service does; else they are left out and logged."""
    mock: bool = False
    """Leave out what a request would be refused for, and answer to every model name; for test suites of clients."""
    keys: tuple[str, ...] = ()
    """Bearer keys. Without any, only clients on this machine are served."""
    hosts: tuple[str, ...] = ()
    """Without keys: names in a Host header that are as good as localhost."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of these origins may call the server from a browser; "*": all."""
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    """Limits for each client; None: none."""
    max_body_bytes: int = 32 * MIB
    """Of a request, after decompression."""
    body_timeout_s: float = 60.0
    heartbeat_s: float = 15.0
    """Longest silence on a connection that waits for an answer."""

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint`: the same as long as model, dtype and version are."""
        told = f"{self.model}\n{self.dtype}\n{self.version}"
        return "fp_" + hashlib.sha256(told.encode()).hexdigest()[:20]

    def serves(self, model: str) -> bool:
        """Whether a request for `model` is for this one."""
        return self.any_model or self.mock or model == self.model or model in self.aliases


def load_keys(path: str | Path | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Bearer keys of a file (one a line, `#` begins a comment), or else of the variable WAFER_API_KEYS (commas between).

    Raises InputError if the file cannot be read, is readable for everybody, or holds no key.
    """
    if path is None:
        return tuple(k for part in environment.get(KEYS_VARIABLE, "").split(",") if (k := part.strip()))
    path = Path(path)
    try:
        text = path.read_text()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            f"the key file {path} cannot be read: {e}; give a text file with one key a line"
        ) from e
    if mode & 0o007:
        raise InputError(f"the key file {path} is open to every user of this machine; run: chmod 600 {path}")
    keys = tuple(k for line in text.splitlines() if (k := line.split("#", 1)[0].strip()))
    if not keys:
        raise InputError(f"the key file {path} holds no key; write one a line")
    return keys
