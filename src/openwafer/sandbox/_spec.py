"""What the launcher is told, and the places that it opens for a process: each once, and checked as opened."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from openwafer.base import InputError
from openwafer.sandbox._confinement import Confinement, Limits, Mount

# What programs need of the machine itself, and everybody may read.
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/timezone", "/etc/mime.types", "/sys/devices/system/cpu",
    "/sys/devices/system/node",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One confined process, as its launcher is told of it."""

    argv: list[str]
    environment: dict[str, str]
    confinement: Confinement
    scratch: str
    """A folder for it on this machine, for where it cannot have one of its own in memory."""
    descriptors: list[int]
    """What the process is started with beside 0, 1 and 2."""
    shared_bytes: int
    """Memory behind those descriptors, which is not held against the process."""
    life: int
    """The process must end when this pipe does."""
    report: int
    """The launcher writes here, a JSON object a line."""
    tiers: list[str]
    """Those that may be used, strongest first."""


def encode(spec: Spec) -> bytes:
    return json.dumps(asdict(spec)).encode()


def decode(data: bytes) -> Spec:
    plain = json.loads(data)
    confinement = plain["confinement"]
    confinement["limits"] = Limits(**confinement["limits"])
    confinement["mounts"] = tuple(Mount(**mount) for mount in confinement["mounts"])
    for name in ("volumes", "trusted", "scratch_at"):
        confinement[name] = tuple(confinement[name])
    return Spec(**{**plain, "confinement": Confinement(**confinement)})


@dataclass(frozen=True, slots=True)
class Place:
    """Something of this machine, opened: whoever moves or replaces its path afterwards changes nothing."""

    path: str
    descriptor: int
    writable: bool = False


def open_places(confinement: Confinement) -> list[Place]:
    """System files, what the caller answers for, and the mounts, parents before what lies in them.

    Raises InputError for a mount that does not exist or leads outside of the volumes.
    """
    places = [Place(path, opened) for path in SYSTEM if (opened := _open_if_there(path)) is not None]
    places += [Place(path, os.open(path, os.O_PATH)) for path in confinement.trusted]
    places += [
        Place(mount.path, _open_mount(mount, confinement.volumes), mount.writable)
        for mount in confinement.mounts
    ]
    return sorted(places, key=lambda place: depth(place.path))


def depth(path: str) -> tuple[int, str]:
    """Sorts folders before what lies in them."""
    return path.count("/"), path


def _open_if_there(path: str) -> int | None:
    try:
        return os.open(path, os.O_PATH)
    except OSError:
        return None


def _open_mount(mount: Mount, volumes: tuple[str, ...]) -> int:
    try:
        descriptor = os.open(mount.path, os.O_PATH)
    except OSError as error:
        raise InputError(
            f"the job's mount {mount.path} cannot be opened ({error.strerror}); name a folder that exists on the machine of the "
            "appliance"
        ) from error
    real = os.readlink(f"/proc/self/fd/{descriptor}")
    if not any(
        real == volume or real.startswith(volume.rstrip("/") + "/")
        for volume in map(os.path.realpath, volumes)
    ):
        led = "" if real == mount.path else f" leads to {real}, which"
        raise InputError(
            f"the job's mount {mount.path}{led} lies outside of the volumes of this appliance ({', '.join(volumes) or 'none'}); "
            "move the data into one of them, or ask whoever runs the appliance for another volume"
        )
    return descriptor
