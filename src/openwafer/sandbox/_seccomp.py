"""The filter of system calls: what is refused, and the supervisor's end that hears of every refusal."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from typing import NamedTuple

from openwafer.sandbox import _kernel as kernel

_ALLOW, _ERRNO, _NOTIFY, _KILL = 0x7FFF0000, 0x00050000, 0x7FC00000, 0x80000000
_LOAD, _EQUAL, _GREATER_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR_AT, _ARCH_AT, _ARG0_AT = 0, 4, 16
_SET_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101  # _IOWR('!', 0, 80 bytes), _IOWR('!', 1, 24 bytes)
_NOTICE, _ANSWER_FORMAT = struct.Struct("<QIIiIQ6Q"), struct.Struct("<QqiI")
_NEW_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWCGROUP
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWTIME
)
_AF_UNIX = 1
_FAMILIES = {2: "AF_INET", 10: "AF_INET6", 16: "AF_NETLINK", 17: "AF_PACKET", 40: "AF_VSOCK", 1: "AF_UNIX"}

_TOLD = {
    "looks into other processes": ("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise"),
    "changes what it can see of the machine": (
        "unshare", "setns", "mount", "umount2", "pivot_root", "move_mount", "fsopen", "fsmount", "fsconfig", "fspick",
        "open_tree", "mount_setattr", "chroot", "open_by_handle_at", "name_to_handle_at",
    ),
    "changes the kernel": (
        "bpf", "kexec_load", "kexec_file_load", "init_module", "finit_module", "reboot", "swapon", "swapoff", "acct", "quotactl",
        "syslog", "fanotify_init",
    ),
}  # fmt: skip
"""Calls that no data pipeline needs; each is answered EPERM and told."""
_QUIET = (
    "clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "memfd_create", "memfd_secret", "userfaultfd",
    "perf_event_open", "add_key", "request_key", "keyctl", "personality", "move_pages", "migrate_pages",
)  # fmt: skip
"""Calls that libraries try and do without (ENOSYS): they escape this filter, or memory that nobody counts lies behind them."""
_OWNERS = (
    "chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "utimensat", "utimes", "utime", "futimesat", "setxattr",
    "lsetxattr", "removexattr", "lremovexattr", "truncate",
)  # fmt: skip
"""What Landlock does not look at, and a process may do to any file of its own user that it can name."""
_SYSTEM_V = ("shmget", "semget", "msgget", "mq_open")


class Refusal(NamedTuple):
    """A system call that was refused, as the log tells it."""

    what: str
    why: str


class Filter:
    """A seccomp program for this process and all that it will start.

    `alone`: for a process without namespaces around it. It then may not fork, signal others, name sockets or change the
    attributes of files.
    """

    def __init__(self, alone: bool, own_pid: int) -> None:
        self._alone = alone
        self._own_pid = own_pid
        self._code: list[bytes] = []

    def install(self) -> int | None:
        """From here on. Returns the descriptor on which refusals are heard, or None where the kernel has no such thing.

        The process must have PR_SET_NO_NEW_PRIVS. Raises OSError where seccomp does not exist.
        """
        for action, flags in ((_NOTIFY, _NEW_LISTENER), (_ERRNO | errno.EPERM, 0)):
            code = b"".join(self._program(action))
            buffer = ctypes.create_string_buffer(code, len(code))
            program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
            try:
                descriptor = kernel.call("seccomp", _SET_FILTER, flags, ctypes.byref(program))
            except OSError as error:
                # EBUSY: an outer container listens already. EINVAL: older than Linux 5.0.
                if flags and error.errno in (errno.EBUSY, errno.EINVAL):
                    continue
                raise
            return descriptor if flags else None
        raise AssertionError("the second filter was installed or raised")

    def _program(self, refuse: int) -> list[bytes]:
        arch = kernel.AUDIT_ARCH[kernel.machine()]
        code = [_op(_LOAD, _ARCH_AT), _op(_EQUAL, arch, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NR_AT)]
        if kernel.machine() == "x86_64":  # the x32 numbers would be a way around
            code += [_op(_GREATER_EQUAL, 0x40000000, 0, 1), _op(_RETURN, _ERRNO | errno.ENOSYS)]
        told = [name for names in _TOLD.values() for name in names]
        quiet = list(_QUIET)
        if self._alone:
            told += [
                *_OWNERS,
                "pidfd_send_signal",
                "rt_sigqueueinfo",
                "rt_tgsigqueueinfo",
                "tkill",
                "fork",
                "vfork",
                "socket",
            ]
            quiet += _SYSTEM_V
        for names, action in ((told, refuse), (quiet, _ERRNO | errno.ENOSYS)):
            for name in names:
                code += _when(name, [_op(_RETURN, action)])
        allow, deny = _op(_RETURN, _ALLOW), _op(_RETURN, refuse)
        code += _when("socketpair", [_op(_LOAD, _ARG0_AT), _op(_EQUAL, _AF_UNIX, 0, 1), allow, deny])
        if self._alone:
            own = [_op(_LOAD, _ARG0_AT), _op(_EQUAL, self._own_pid, 0, 1), allow, deny]
            code += _when("kill", own) + _when("tgkill", own)
            code += _when(
                "clone", [_op(_LOAD, _ARG0_AT), _op(_ANY_BIT, kernel.CLONE_THREAD, 0, 1), allow, deny]
            )
        else:
            code += _when("socket", [_op(_LOAD, _ARG0_AT), _op(_EQUAL, _AF_UNIX, 0, 1), allow, deny])
            code += _when("clone", [_op(_LOAD, _ARG0_AT), _op(_ANY_BIT, _NEW_NAMESPACES, 0, 1), deny, allow])
        return [*code, allow]


class Refusals:
    """The supervisor's end: answers EPERM and says what was tried."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def next(self) -> Refusal | None:
        """Take and answer one; None if it is gone already (its process was killed)."""
        notice = bytearray(_NOTICE.size)
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, notice)
            identity, _, _, nr, _, _, *args = _NOTICE.unpack(notice)
            fcntl.ioctl(
                self.descriptor, _ANSWER, bytearray(_ANSWER_FORMAT.pack(identity, 0, -errno.EPERM, 0))
            )
        except OSError:
            return None
        return _described(nr, args)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def _when(name: str, then: list[bytes]) -> list[bytes]:
    """`then`, which returns on every path, if the call is `name`; nothing on machines without it."""
    number = kernel.number(name)
    return [] if number is None else [_op(_EQUAL, number, 0, len(then)), *then]


def _described(nr: int, args: list[int]) -> Refusal:
    name = next((name for name in kernel.NUMBERS if kernel.number(name) == nr), f"system call {nr}")
    if name in ("socket", "socketpair"):
        family = args[0] & 0xFFFFFFFF
        return Refusal(f"{name}({_FAMILIES.get(family, f'family {family}')})", "opens a network connection")
    if name in ("kill", "tkill", "tgkill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        return Refusal(f"{name}({args[0] & 0xFFFFFFFF})", "signals other processes")
    if name in ("clone", "fork", "vfork"):
        makes = name == "clone" and args[0] & _NEW_NAMESPACES
        return Refusal(name, "changes what it can see of the machine" if makes else "starts processes")
    why = next((why for why, names in _TOLD.items() if name in names), "changes the attributes of files")
    return Refusal(name, why)
