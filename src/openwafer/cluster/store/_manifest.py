"""Manifests: the small file that says, last of all, that the other files belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import xxhash

from openwafer.base import CheckpointError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


class RecordFile(msgspec.Struct, frozen=True):
    """One record of a store. `xxh3` is of its data without the header; empty if it was not asked for."""

    record: str
    file: str
    nbytes: int
    xxh3: str


class StoreManifest(msgspec.Struct, frozen=True):
    """All records of a store are complete at `step`."""

    version: int
    step: int
    globals: dict[str, str]
    records: tuple[RecordFile, ...]


class ShardFile(msgspec.Struct, frozen=True):
    """One file of a checkpoint; `xxh3` is of the whole file."""

    file: str
    kind: Literal["weights", "state", "index"]
    nbytes: int
    xxh3: str


class CheckpointManifest(msgspec.Struct, frozen=True):
    """All files of a checkpoint; `extra` is msgpack, which keeps bytes and integer keys as they are."""

    version: int
    step: int
    globals: dict[str, str]
    files: tuple[ShardFile, ...]
    extra: bytes


class _Envelope(msgspec.Struct):
    xxh3: str
    body: msgspec.Raw


# Made while one thread imports this module: msgspec's first look into a type is not safe between threads.
for _kind in (_Envelope, StoreManifest, CheckpointManifest):
    msgspec.json.Decoder(_kind)

M = TypeVar("M", StoreManifest, CheckpointManifest)


def encode_globals(values: dict[str, float]) -> dict[str, str]:
    """Floats as text that reads back exactly, which JSON's own numbers do not do for NaN and infinity."""
    return {name: repr(float(value)) for name, value in values.items()}


def decode_globals(values: dict[str, str]) -> dict[str, float]:
    """The inverse of `encode_globals`."""
    return {name: float(value) for name, value in values.items()}


def manifest_bytes(manifest: StoreManifest | CheckpointManifest) -> bytes:
    """The manifest as JSON, with a hash of itself: a damaged one never reads as another one."""
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    return msgspec.json.encode(_Envelope(xxhash.xxh3_64_hexdigest(body), msgspec.Raw(body))) + b"\n"


def read_manifest(path: Path, kind: type[M]) -> M:
    """Read a manifest.

    Raises CheckpointError if it is missing, damaged, or of a version that this program does not know.
    """
    try:
        envelope = msgspec.json.decode(path.read_bytes(), type=_Envelope)
        whole = xxhash.xxh3_64_hexdigest(bytes(envelope.body)) == envelope.xxh3
        version = msgspec.json.decode(envelope.body).get("version") if whole else None
        manifest = msgspec.json.decode(envelope.body, type=kind) if version == FORMAT_VERSION else None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): the folder holds nothing complete; "
            "name a folder that does, or resume from an older checkpoint"
        ) from None
    except (msgspec.MsgspecError, AttributeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); resume from an older checkpoint") from None
    if not whole:
        raise CheckpointError(f"{path} is damaged (its hash does not match); resume from an older checkpoint")
    if manifest is None:
        raise CheckpointError(
            f"{path} has format version {version}, this openwafer reads {FORMAT_VERSION}; "
            "use the openwafer that wrote it"
        )
    return manifest
