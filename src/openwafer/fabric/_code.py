"""From a Code's LLVM assembly to addresses of entries, with llvmlite.

Object code is kept by content: in memory for the life of the process, and in a folder where one is given.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import llvmlite.binding as llvm  # type: ignore[import-untyped]

from openwafer.artifact._image import Code
from openwafer.base import FabricError
from openwafer.fabric import _native

_OPTIMISE = 2
_ready = False
_objects: dict[str, bytes] = {}


class LoadedCode:
    """Entries of one Code in this process; the machine code lives as long as this object."""

    def __init__(self, code: Code, object_cache: Path | None = None) -> None:
        """Compile `code`, or take it from a cache.

        Raises FabricError if the assembly is malformed, calls a function that the runtime has not, or lacks an entry.
        """
        target = _target_machine()
        key = _key(code, target)
        compiled = _objects.get(key) or _stored(object_cache, key)
        if compiled is None:
            compiled = _compile(code, target)
        _objects[key] = compiled
        _store(object_cache, key, compiled)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(compiled))
        self._engine.finalize_object()
        self.entries = tuple(self._address(f"ow_entry_{number}") for number in range(len(code.entries)))
        """Addresses, in the order of `Code.entries`."""

    def _address(self, name: str) -> int:
        address = int(self._engine.get_function_address(name))
        if address == 0:
            raise FabricError(f"the compiled code has no function {name}; compile the program again")
        return address


def _target_machine() -> Any:
    """A new one each time: an execution engine takes its target machine with it."""
    global _ready
    if not _ready:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        for name, address in _native.runtime_addresses().items():
            llvm.add_symbol(name, address)
        _ready = True
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=_OPTIMISE,
        jit=True,
    )


def _compile(code: Code, target: Any) -> bytes:
    try:
        module = llvm.parse_assembly(code.llvm)
        module.verify()
    except RuntimeError as error:
        raise FabricError(f"the program's LLVM assembly is malformed: {error}") from error
    known = set(_native.runtime_addresses())
    for function in module.functions:
        if function.is_declaration and function.name.startswith("ow_") and function.name not in known:
            raise FabricError(f"the program calls {function.name}, which this machine does not have")
    options = llvm.create_pipeline_tuning_options(speed_level=_OPTIMISE)
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(target.emit_object(module))


def _key(code: Code, target: Any) -> str:
    parts = (code.llvm, str(target.triple), llvm.get_host_cpu_name(), llvmlite.__version__, str(_OPTIMISE))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


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
