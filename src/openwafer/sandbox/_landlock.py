"""Landlock: a process gives up, for good, all of the file system but what it names (Linux 5.13)."""

from __future__ import annotations

import ctypes
import os
import stat

from openwafer.sandbox import _kernel as kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = 1, 2, 4, 8, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # by ABI; 16 from 5 on
_VERSION, _PATH_BENEATH = 1, 1


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("access", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """The ABI of Landlock here; 0 where there is none."""
    try:
        return kernel.call("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return 0


def restrict(rules: list[tuple[int, bool]]) -> str:
    """Confine this process, and all that it starts, to what lies below these places; says in words what now is confined.

    rules: descriptor of a file or folder, and whether it may be written as well as read. The process must have
    PR_SET_NO_NEW_PRIVS. Raises OSError.
    """
    abi = version()
    handled = (1 << _ACCESS_BITS.get(abi, 16)) - 1
    attributes = _Ruleset(handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    # Older kernels know a shorter structure, and refuse a longer one unless the rest is zero, which it is.
    ruleset = kernel.call("landlock_create_ruleset", ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        for place, writable in rules:
            access = handled if writable else _READ
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                access &= _OF_FILES
            beneath = _Beneath(access & handled, place)
            kernel.call("landlock_add_rule", ruleset, _PATH_BENEATH, ctypes.byref(beneath), 0)
        kernel.call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    parts = ["files", *(["TCP"] if abi >= 4 else []), *(["signals"] if abi >= 6 else [])]
    return f"Landlock {abi} ({', '.join(parts)})"
