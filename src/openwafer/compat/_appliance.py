"""The appliance's API ("SDK Appliance API Reference") on this machine: compile here, simulate here."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from openwafer.base import InputError
from openwafer.compat._cslc import compile_folder
from openwafer.compat._flags import parse_flags
from openwafer.host import SdkRuntime as Runtime

_OPTIONS = ("mgmt_namespace", "resource_cpu", "resource_mem", "disable_version_check")


class SdkCompiler:
    """Compiles programs; use it in a `with`. The options of the appliance are accepted and change nothing."""

    def __init__(self, **options: Any) -> None:
        _check_options("SdkCompiler", options, _OPTIONS)

    def __enter__(self) -> SdkCompiler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def compile(
        self,
        app_path: str | Path,
        csl_main: str,
        options: str | Iterable[str] = "",
        out_path: str | Path = ".",
    ) -> str:
        """Compile `csl_main` of the folder `app_path` with the flags of cslc; gives the folder that SdkRuntime takes.

        Raises CslError if the program is wrong, InputError for wrong flags.
        """
        flags = shlex.split(options) if isinstance(options, str) else list(options)
        chosen = parse_flags([str(Path(app_path) / csl_main), *flags])
        chosen = dataclasses.replace(chosen, output=Path(out_path) / chosen.output)
        compile_folder(chosen)
        return str(chosen.output)


class SdkRuntime(Runtime):
    """The runtime as a `with`: loads and runs on entry, stops at the end. It always simulates, as with simulator=True."""

    def __init__(self, artifact_path: str | Path, simulator: bool = True, **options: Any) -> None:
        _check_options("SdkRuntime", options, _OPTIONS)
        super().__init__(artifact_path)

    def __enter__(self) -> SdkRuntime:
        self.load()
        self.run()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error in the block there may be commands that can never end.
        if kind is None:
            self.stop()


def _check_options(name: str, options: Iterable[str], known: tuple[str, ...]) -> None:
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            raise InputError(
                f"{name} has no option {option!r}; "
                + (f"did you mean {near[0]}?" if near else "leave it out")
            )
