"""From a Code's LLVM assembly to addresses of entries, with llvmlite.

Object code is kept by content: in memory for the life of the process, and in a folder where one is given.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from openwafer.artifact._image import Code
from openwafer.base import FabricError, llvm
from openwafer.fabric import _native

_objects: dict[str, bytes] = {}


class LoadedCode:
    """Entries of one Code in this process; the machine code lives as long as this object."""

    def __init__(self, code: Code, object_cache: Path | None = None) -> None:
        """Compile `code`, or take it from a cache.

        Raises FabricError if the assembly is malformed, calls a function that the runtime has not, or lacks an entry.
        """
        key = _key(code)
        compiled = _objects.get(key) or _stored(object_cache, key)
        if compiled is None:
            compiled = _compile(code)
        _objects[key] = compiled
        _store(object_cache, key, compiled)
        llvm.add_symbols(_native.runtime_addresses())
        self._code = llvm.MachineCode(compiled)
        self.entries = tuple(self._address(f"ow_entry_{number}") for number in range(len(code.entries)))
        """Addresses, in the order of `Code.entries`."""

    def _address(self, name: str) -> int:
        address = self._code.address(name)
        if address == 0:
            raise FabricError(f"the compiled code has no function {name}; compile the program again")
        return address


def _compile(code: Code) -> bytes:
    try:
        module = llvm.parse(code.llvm)
    except RuntimeError as error:
        raise FabricError(f"the program's LLVM assembly is malformed: {error}") from error
    known = set(_native.runtime_addresses())
    for function in module.functions:
        if function.is_declaration and function.name.startswith("ow_") and function.name not in known:
            raise FabricError(f"the program calls {function.name}, which this machine does not have")
    return llvm.object_file(module)


def _key(code: Code) -> str:
    return hashlib.sha256("\0".join((code.llvm, *llvm.identity())).encode()).hexdigest()


def _stored(folder: Path | None, key: str) -> bytes | None:
    if folder is None:
        return None
    try:
        return (folder / f"{key}.o").read_bytes()
    except OSError:
        return None


def _store(folder: Path | None, key: str, compiled: bytes) -> None:
    """Keeps the object file; a folder that cannot be written costs only the time to compile again."""
    if folder is None or (folder / f"{key}.o").exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{key}.{os.getpid()}"
        beside.write_bytes(compiled)
        beside.rename(folder / f"{key}.o")
    except OSError:
        return
