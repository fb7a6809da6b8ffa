"""The strongest tier: users, files, processes, network and IPC of its own; needs no root where users may have them."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

from openwafer.sandbox import _kernel as kernel
from openwafer.sandbox._confinement import Confinement
from openwafer.sandbox._spec import DEVICES, Place, depth

NOBODY = 65534
_ALL = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
_GUARDED = kernel.MS_NOSUID | kernel.MS_NODEV
_READ_ONLY = kernel.MS_RDONLY | _GUARDED
SCRATCH = "/scratch"


def unavailable() -> str | None:
    """Why this machine does not let us have namespaces, or None: they are made in a process that ends at once."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            enter()
            kernel.mount("tmpfs", "/tmp", "tmpfs", _GUARDED)
            kernel.restrict_mount("/tmp", _READ_ONLY)
            os._exit(0)
        except OSError as error:
            os.write(write, str(error.strerror or error).encode()[:500])
        finally:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as told:
        why = told.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return None if status == 0 else why or "the attempt ended without a reason"


def enter() -> None:
    """Move this process into namespaces of its own, with all rights inside them. Children are in the new process namespace.

    Users keep their number. For root, `nobody` is mapped too, and is who the confined process then is. Raises OSError.
    """
    user, group = os.getuid(), os.getgid()
    if user == 0:
        _unshare_mapped_from_outside()
    else:
        kernel.call("unshare", _ALL)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1\n")
        _write("/proc/self/gid_map", f"{group} {group} 1\n")
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    socket.sethostname("sandbox")


def confined_ids() -> tuple[int, int]:
    """User and group of the confined process."""
    return (NOBODY, NOBODY) if os.getuid() == 0 else (os.getuid(), os.getgid())


def build_view(places: list[Place], confinement: Confinement) -> str | None:
    """Make a file system that has these places, scratch space in memory, and nothing else; for the first process.

    Returns why there is no `/proc`, where the machine refuses one (a container that masks its own): most programs do without.
    Raises OSError.
    """
    devices = [Place(path, os.open(path, os.O_PATH)) for path in DEVICES]
    links = {
        place.path: os.readlink(place.path)
        for place in places
        if place.path.count("/") == 1 and os.path.islink(place.path)
    }
    root = "/tmp"  # exists everywhere; what it hides was opened before
    kernel.mount("tmpfs", root, "tmpfs", _GUARDED, "size=4m,mode=755")
    scratch = _make_scratch(root, confinement)
    by_path = {place.path: place for place in places}
    # A folder comes before what is mounted inside of it, whether it is scratch or a mount.
    for path in sorted({*scratch, *by_path}, key=depth):
        if path in scratch:
            with suppress(OSError):  # inside of a mount that does not have this folder
                os.makedirs(root + path, exist_ok=True)
                kernel.mount(scratch[path], root + path, "", kernel.MS_BIND)
        elif path in links:
            os.symlink(links[path], root + path)
        else:
            target = _bind(by_path[path], root)
            kernel.restrict_mount(target, _GUARDED if by_path[path].writable else _READ_ONLY)
    for device in devices:
        kernel.restrict_mount(_bind(device, root), kernel.MS_NOSUID)
    for name, link in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(link, f"{root}/dev/{name}")
    os.makedirs(f"{root}/proc")
    no_proc = _mount_proc(f"{root}/proc")
    _write_users(root)
    os.chdir(root)
    kernel.call("pivot_root", b".", b".")
    kernel.call("umount2", b".", kernel.MNT_DETACH)
    os.chdir("/")
    kernel.restrict_mount("/", _READ_ONLY, recursive=False)
    return no_proc


def _mount_proc(target: str) -> str | None:
    """Must come before the old root goes: the kernel gives a new one only to those who see one."""
    try:
        kernel.mount("proc", target, "proc", _GUARDED | kernel.MS_NOEXEC)
        _write(f"{target}/self/oom_score_adj", "1000")
        kernel.restrict_mount(target, _READ_ONLY | kernel.MS_NOEXEC)
    except OSError as error:
        return f"/proc: {error.strerror or error}"
    return None


def _unshare_mapped_from_outside() -> None:
    """Only a process that stays outside may map more than one user."""
    read, write = os.pipe()
    outer = os.getpid()
    helper = os.fork()
    if helper == 0:
        try:
            os.close(write)
            os.read(read, 1)
            for kind in ("uid_map", "gid_map"):
                _write(f"/proc/{outer}/{kind}", f"0 0 1\n{NOBODY} {NOBODY} 1\n")
            os._exit(0)
        finally:
            os._exit(1)
    os.close(read)
    try:
        kernel.call("unshare", _ALL)
    finally:
        os.close(write)
        _, status = os.waitpid(helper, 0)
    if status:
        raise OSError(1, f"root may not map the user {NOBODY} here")


def _bind(place: Place, root: str) -> str:
    target = root + place.path
    if not os.path.exists(target):
        if stat.S_ISDIR(os.fstat(place.descriptor).st_mode):
            os.makedirs(target)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(f"/proc/self/fd/{place.descriptor}", target, "", kernel.MS_BIND | kernel.MS_REC)
    return target


def _make_scratch(root: str, confinement: Confinement) -> dict[str, str]:
    """Mount it, and make a folder in it for each further path at which it is seen."""
    user, group = confined_ids()
    size = f"size={confinement.limits.scratch_bytes},mode=700,uid={user},gid={group}"
    for folder in (SCRATCH, "/dev/shm"):
        os.makedirs(root + folder, exist_ok=True)
        kernel.mount("tmpfs", root + folder, "tmpfs", _GUARDED, size)
    parts = {path: f"{root}{SCRATCH}/.at{index}" for index, path in enumerate(confinement.scratch_at)}
    for part in parts.values():
        os.mkdir(part, 0o700)
        os.chown(part, user, group)
    return parts


def _write_users(root: str) -> None:
    user, group = confined_ids()
    os.makedirs(f"{root}/etc", exist_ok=True)
    for name, text in (
        ("passwd", f"sandbox:x:{user}:{group}::{SCRATCH}:/bin/sh\n"),
        ("group", f"sandbox:x:{group}:\n"),
        ("hosts", "127.0.0.1 localhost sandbox\n"),
    ):
        _write(f"{root}/etc/{name}", text, os.O_CREAT)


def _write(path: str, text: str, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
