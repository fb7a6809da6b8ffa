"""Machine code from LLVM assembly, for this processor and in this process (llvmlite)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import llvmlite.binding as llvm  # type: ignore[import-untyped]

_OPTIMISE = 2
_ready = False


class MachineCode:
    """The functions of one object file; they live as long as this object."""

    def __init__(self, object_file: bytes) -> None:
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(object_file))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a function lies; 0 if there is none of this name."""
        return int(self._engine.get_function_address(name))


def parse(text: str) -> Any:
    """A module of llvmlite, verified. Raises RuntimeError if the assembly is malformed."""
    module = llvm.parse_assembly(text)
    module.verify()
    return module


def object_file(module: Any, *, vectorise: bool = False) -> bytes:
    """Optimise a parsed module and compile it for this processor."""
    target = target_machine()
    options = llvm.create_pipeline_tuning_options(speed_level=_OPTIMISE)
    if vectorise:
        options.loop_vectorization = True
        options.loop_interleaving = True
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(target.emit_object(module))


def add_symbols(addresses: Mapping[str, int]) -> None:
    """Functions of this process that machine code may call by name."""
    for name, address in addresses.items():
        llvm.add_symbol(name, address)


def target_machine() -> Any:
    """A new one each time: an execution engine takes its target machine with it."""
    global _ready
    if not _ready:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        _ready = True
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=_OPTIMISE,
        jit=True,
    )


def identity() -> tuple[str, ...]:
    """What object code depends on besides the assembly: the machine, its processor, the compiler."""
    return str(target_machine().triple), llvm.get_host_cpu_name(), llvmlite.__version__, str(_OPTIMISE)
