"""What the code of a program is, and what surrounds it, as short texts that differ when it differs."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path

NO_FILE = "absent"
"""The token of a file that is not there, or not to be read."""
WHOLE_BYTES = 64 << 20
"""Larger files are told apart by size and time alone: reading them costs more than a plan."""

_SESSION = (
    "COLUMNS",
    "LINES",
    "OLDPWD",
    "OPENWAFER_JOB",
    "OPENWAFER_JOB_ID",
    "PWD",
    "SHLVL",
    "WAFER_LOG",
    "_",
)
_SESSION_PREFIXES = ("SSH_", "TERM", "WAFER_CLUSTER", "XDG_SESSION_")
"""Variables that say where and for whom a process runs, which differ from one start to the next."""


def token_of(path: Path) -> str:
    """Differs when the file does. Of installed packages and of large files by size and time, as Python's own cache does."""
    try:
        about = path.stat()
        if is_installed(path) or about.st_size > WHOLE_BYTES:
            return f"{about.st_size}:{about.st_mtime_ns}"
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return NO_FILE


def loaded_modules() -> dict[str, Path]:
    """The modules that this process has loaded from files, by name."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # Some modules only pretend to have a file, with a name that is not a whole path.
        if isinstance(file, str) and Path(file).is_absolute():
            found[name] = Path(file)
    return found


def environment() -> list[tuple[str, str]]:
    """This process's variables, but for those that say where and for whom it runs."""
    return sorted(
        (name, value)
        for name, value in os.environ.items()
        if name not in _SESSION and not name.startswith(_SESSION_PREFIXES)
    )


def packages_token(packages: Iterable[str]) -> str:
    """Of every file of code in these loaded packages and below them, loaded or not."""
    digest = hashlib.sha256()
    for package in packages:
        root = Path(sys.modules[package].__file__ or "").parent
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".so", ".csl"):
                digest.update(f"{package}/{path.relative_to(root)} {token_of(path)}\n".encode())
    return digest.hexdigest()


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python or to a package that was installed, and not to somebody's own sources."""
    text = str(path)
    return any(text.startswith(root) for root in _installed_roots())


@cache
def _installed_roots() -> tuple[str, ...]:
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    roots = {sysconfig.get_path(kind) for kind in kinds} | {
        str(Path(path)) for path in sys.path if "-packages" in path
    }
    return tuple(f"{root}/" for root in sorted(roots))
