"""Who may call: names and hashes of tokens, in a file that only its owner may read."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

import msgspec

from openwafer.appliance._folder import write_whole
from openwafer.base import InputError, StorageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class User(NamedTuple):
    """Somebody who showed a token. Administrators see and change everybody's jobs."""

    name: str
    admin: bool
    volumes: tuple[str, ...] = ()
    """Folders that the user's jobs may mount, in place of the cluster's volumes; (): the cluster's."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    token_sha256: str
    admin: bool = False
    volumes: tuple[str, ...] = ()


@final
class Users:
    """The users file: a JSON list of names, hashes and rights. Tokens themselves are in nobody's file but their user's.

    It is read again when it changes, so users come and go while the appliance runs.
    """

    def __init__(self, file: Path) -> None:
        """Raises InputError if the file is open to others or makes no sense, StorageError if it cannot be read."""
        self._file = file
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._by_hash: dict[str, User] = {}
        self._refresh()

    def who(self, token: str) -> User | None:
        """The user of a token; None if it is nobody's. What takes longer for one token than for another tells nothing."""
        with self._lock:
            self._refresh()
            return self._by_hash.get(_hashed(token))

    @property
    def names(self) -> dict[str, bool]:
        """Every user, and whether an administrator."""
        with self._lock:
            self._refresh()
            return {user.name: user.admin for user in self._by_hash.values()}

    def add(self, name: str, *, admin: bool = False, volumes: Sequence[Path] = ()) -> str:
        """Make a user, or give one a new token, rights and volumes in place of the old. Returns the token, which is kept
        nowhere.

        Raises InputError for a name that is none and a volume that is no folder, StorageError.
        """
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{name!r} is no user's name; take letters, digits, '.', '_', '-' and '@', at most 64"
            )
        for volume in volumes:
            if not volume.is_dir():
                raise InputError(f"the volume {volume} is no folder; make it, or name another")
        own = tuple(str(volume.resolve()) for volume in volumes)
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._refresh()
            self._write([*self._others(name), _Entry(name, _hashed(token), admin, own)])
        return token

    def remove(self, name: str) -> None:
        """Let the user in no more. Raises InputError if there is none of this name, StorageError."""
        with self._lock:
            self._refresh()
            others = self._others(name)
            if len(others) == len(self._by_hash):
                raise InputError(
                    f"there is no user {name!r}; there are {', '.join(self.names_unlocked) or 'none'}"
                )
            self._write(others)

    @property
    def names_unlocked(self) -> list[str]:
        """Names, for whoever has the lock."""
        return sorted(user.name for user in self._by_hash.values())

    def _others(self, name: str) -> list[_Entry]:
        return [
            _Entry(user.name, hash, user.admin, user.volumes)
            for hash, user in self._by_hash.items()
            if user.name != name
        ]

    def _write(self, entries: list[_Entry]) -> None:
        write_whole(
            self._file, msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n", mode=0o600
        )
        self._refresh()

    def _refresh(self) -> None:
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            self._by_hash, self._stamp = {}, None
            return
        stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if stamp == self._stamp:
            return
        if stat.st_mode & 0o077:
            raise InputError(f"the users file {self._file} is open to others; run: chmod 600 {self._file}")
        try:
            entries = msgspec.json.decode(self._file.read_bytes(), type=list[_Entry])
        except OSError as error:
            raise StorageError(f"the users file {self._file} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise InputError(
                f"the users file {self._file} makes no sense: {error}; it is a list of name, token_sha256, admin and volumes"
            ) from error
        self._by_hash = {
            entry.token_sha256: User(entry.name, entry.admin, entry.volumes) for entry in entries
        }
        self._stamp = stamp


def _hashed(token: str) -> str:
    """Tokens have 256 random bits, so that a plain hash cannot be turned round."""
    return hashlib.sha256(token.encode()).hexdigest()
