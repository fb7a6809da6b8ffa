"""What a Python interpreter consists of, found without running it."""

from __future__ import annotations

import os
from pathlib import Path

from openwafer.base import InputError

_ROOTS = ("/", "/usr", "/bin", "/home", "/root", "/etc", "/var", "/tmp", "/opt")
"""Never a prefix by themselves: system files are seen anyway, and the others hold much more than an interpreter."""


def interpreter_paths(python: str) -> tuple[str, ...]:
    """Folders that hold an interpreter, its standard library and its environment's packages.

    They are the prefix of `python`, those of the interpreters that its links lead through, and the one that its
    `pyvenv.cfg` names. Raises InputError if there is no such program, or if its prefix is too wide to be shown to anyone.
    """
    if not os.path.isabs(python) or not os.access(python, os.X_OK) or os.path.isdir(python):
        raise InputError(
            f"there is no Python interpreter at {python}; give the full path of one, for example /opt/client/bin/python"
        )
    found: dict[str, None] = {}
    for program in (python, *_links(python)):
        prefix = Path(program).parent.parent
        if str(prefix) == "/usr":
            continue
        if str(prefix) in _ROOTS:
            raise InputError(
                f"{program} stands in {prefix}, which cannot be shown to a data pipeline as a whole; make an environment in a "
                "folder of its own (python -m venv)"
            )
        found[str(prefix)] = None
        found.update(dict.fromkeys(_base_of(prefix)))
    return tuple(found)


def _links(path: str) -> list[str]:
    passed: list[str] = []
    while os.path.islink(path) and len(passed) < 40:
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        passed.append(path)
    return [*passed, os.path.realpath(path)]


def _base_of(prefix: Path) -> list[str]:
    try:
        lines = (prefix / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    home = next(
        (value.strip() for key, _, value in (line.partition("=") for line in lines) if key.strip() == "home"),
        "",
    )
    base = str(Path(home).parent)
    return [base] if home and base not in _ROOTS and os.path.isdir(base) else []
