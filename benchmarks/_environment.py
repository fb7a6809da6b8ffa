"""The peers' environment: a Python of their own with DeepSpeed in it, and DeepSpeed's operators compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _common import ROOT, run_worker

from openwafer.base import InputError, StorageError

DEEPSPEED = "0.19.8"
PACKAGES = ("torch", "numpy", "safetensors", "setuptools", "wheel", "ninja", f"deepspeed=={DEEPSPEED}")
BUILD_S = 1800
MARK = "peers-environment"
"""A file in the folder that says what is installed there, and that the folder is ours."""
OPERATORS = {"deepspeed-cpu": ["cpu_adam"], "deepspeed-nvme": ["cpu_adam", "async_io"], "fsdp2-offload": []}
SCRIPT = Path(__file__).with_name("_peers.py")


@dataclass(frozen=True)
class Environment:
    """Where peers run. `libaio`: a folder with `include` and `lib` of libaio where the system has it not."""

    folder: Path
    libaio: Path | None = None

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    @property
    def variables(self) -> dict[str, str]:
        """What DeepSpeed reads: compute on the CPU, keep what it compiles in here, and where libaio is."""
        found = {
            "DS_ACCELERATOR": "cpu",
            "TORCH_EXTENSIONS_DIR": str(self.folder / "extensions"),
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",  # ninja
        }
        if self.libaio is not None:
            libraries = os.pathsep.join(
                sorted({str(path.parent) for path in self.libaio.rglob("libaio.so*")})
            )
            headers = os.pathsep.join(sorted({str(path.parent) for path in self.libaio.rglob("libaio.h")}))
            found |= {"CPATH": headers, "LIBRARY_PATH": libraries, "LD_LIBRARY_PATH": libraries}
        return found

    def prepare(self, contestants: Sequence[str]) -> None:
        """Make what these contestants need, unless it is there from an earlier run: minutes the first time.

        Raises InputError if this machine lacks a compiler or libaio, StorageError if pip fails, RoleLost if an operator
        does not compile.
        """
        operators = sorted({name for contestant in contestants for name in OPERATORS.get(contestant, [])})
        if not operators:
            return
        self._check_tools("async_io" in operators)
        done = self.folder / MARK
        if not _says(done, _contents()):
            self._install(done)
            done.write_text(_contents())
        for operator in operators:
            built = self.folder / f"compiled-{operator}"
            if _says(built, _contents()):
                continue
            print(f"compiling DeepSpeed's {operator}: minutes", flush=True)
            # A build that was cut off leaves a lock, for which every later one waits without end.
            for lock in (self.folder / "extensions").glob("*/lock"):
                lock.unlink()
            run_worker(
                SCRIPT,
                "build",
                {"operator": operator},
                python=self.python,
                environment=self.variables,
                timeout_s=BUILD_S,
            )
            built.write_text(_contents())

    def _check_tools(self, aio: bool) -> None:
        if shutil.which("g++") is None:
            raise InputError(
                "DeepSpeed compiles its optimizer at first use, but there is no g++ here; install it, or leave the "
                "deepspeed contestants out"
            )
        if not aio:
            return
        program = "#include <libaio.h>\nint main() { io_context_t c = 0; return io_setup(1, &c); }\n"
        compiled = subprocess.run(
            ["g++", "-x", "c++", "-", "-laio", "-o", os.devnull],
            input=program,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
        )
        if compiled.returncode:
            raise InputError(
                "deepspeed-nvme needs the header and the library of libaio, and they are not here; install libaio-dev "
                "(Debian) or libaio-devel (Fedora), name a folder that holds them with --libaio, or leave "
                "deepspeed-nvme out"
            )

    def _install(self, mark: Path) -> None:
        if self.folder.exists() and any(self.folder.iterdir()) and not mark.exists():
            raise InputError(
                f"{self.folder} holds something else, and installing would remove it; name a new folder with --environment"
            )
        print(f"installing DeepSpeed {DEEPSPEED} into {self.folder}", flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(self.folder)])
        mark.write_text("")  # ours from now on, though not complete
        constraint = ["--constraint", str(ROOT / "constraints.txt")]
        pip = [str(self.python), "-m", "pip", "install", "--quiet", *constraint]
        _run([*pip, "torch", "numpy", "setuptools", "wheel"])
        _run([*pip, *PACKAGES])  # second, since DeepSpeed's own setup asks for torch


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        end = "\n".join(done.stdout.rstrip().splitlines()[-15:])
        raise StorageError(
            f"{' '.join(command)} failed; see to pip's settings, or name a folder with room with --environment:\n{end}"
        )


def _contents() -> str:
    """What the environment is made of; another version of this file or of the constraints makes it anew."""
    return "\n".join([*PACKAGES, (ROOT / "constraints.txt").read_text()])


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text
