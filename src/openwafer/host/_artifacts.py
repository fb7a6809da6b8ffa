"""The folder that a compilation leaves: what the runtime and scripts read from it.

out/image.msgpack      the Image
out/out.json           {"params": {...}, "colors": {...}}, all text: what scripts read
out/bin/out_rpc.json   the exported names, in the documented form ("Host Runtime and Tensor Streaming")
out/out_port_map.json  the ports of a layout, as add_port_mapping takes them
out/symbols.msgpack    initial values that SdkLayout.set_symbol_all gave, if any
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from openwafer.artifact._image import Image, read_image, write_image
from openwafer.base import InputError, StorageError
from openwafer.host._port_files import read_port_map, write_port_map

_IMAGE = "image.msgpack"


class InitialValue(msgspec.Struct, frozen=True):
    """Bytes that a variable of one PE holds before the program starts."""

    x: int
    y: int
    symbol: str
    data: bytes


class SdkCompileArtifacts:
    """A compiled program in a folder.

    The folder may also be the one above: programs compile to `name/out` and give `name` back.
    """

    def __init__(self, artifacts_path: Path | str) -> None:
        path = Path(artifacts_path)
        below = path / "out"
        is_above = not (path / _IMAGE).is_file() and (below / _IMAGE).is_file()
        self.path = below if is_above else path
        self.port_names: list[str] | None = None
        """The ports that a runtime of these artifacts may use; None: all."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"SdkCompileArtifacts({str(self.path)!r})"

    def add_port_mapping(self, port_map: Path | str) -> SdkCompileArtifacts:
        """Let a runtime use the ports of this file, which SdkLayout.compile wrote, and of others given so; returns itself.

        Raises InputError if the file is no map of ports.
        """
        names = read_port_map(Path(port_map))
        self.port_names = list(dict.fromkeys([*(self.port_names or []), *names]))
        return self

    def image(self) -> Image:
        """The program. Raises InputError if the folder holds none."""
        if not self.path.is_dir():
            raise InputError(
                f"{self.path} is no folder of a compiled program; compile it first, for example with "
                f"cslc layout.csl ... -o {self.path.name}"
            )
        return read_image(self.path / _IMAGE)

    def initial_values(self) -> list[InitialValue]:
        """What set_symbol_all gave."""
        path = self.path / "symbols.msgpack"
        return msgspec.msgpack.decode(path.read_bytes(), type=list[InitialValue]) if path.is_file() else []


def write_artifacts(
    image: Image,
    folder: Path,
    *,
    params: Mapping[str, str] | None = None,
    colors: Mapping[str, str] | None = None,
    initial_values: list[InitialValue] | None = None,
) -> SdkCompileArtifacts:
    """Write a compiled program to `folder`, in place of one that is there.

    The image goes first and comes last: whatever ends the process, no folder holds the image of another program than the
    rest of it, or half of one.
    `params` and `colors` as the command line gave them. Raises StorageError if the folder cannot be written.
    """
    texts = {**image.params, **(params or {})}
    try:
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / _IMAGE).unlink(missing_ok=True)
        (folder / "out.json").write_text(
            json.dumps({"params": texts, "colors": dict(colors or {})}, indent=2) + "\n", encoding="utf-8"
        )
        (folder / "bin" / "out_rpc.json").write_text(
            json.dumps({"rpc_symbols": _rpc_symbols(image)}, indent=2) + "\n", encoding="utf-8"
        )
        symbols = folder / "symbols.msgpack"
        symbols.unlink(missing_ok=True)
        if initial_values:
            symbols.write_bytes(msgspec.msgpack.encode(initial_values))
        port_map = folder / "out_port_map.json"
        port_map.unlink(missing_ok=True)
        if image.ports:
            write_port_map(port_map, image.ports)
        write_image(image, folder / _IMAGE)
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror}; make room, or choose another folder with -o"
        ) from error
    return SdkCompileArtifacts(folder)


def _rpc_symbols(image: Image) -> list[dict[str, object]]:
    found: list[dict[str, object]] = [
        {
            "id": number,
            "immutable": not export.mutable,
            "name": export.name,
            "type": export.type,
            "kind": "Func" if export.kind == "function" else "Var",
            "color": None,
            "inputs": [{"name": f"arg{place}", "type": kind} for place, kind in enumerate(export.parameters)],
        }
        for number, export in enumerate(image.exports)
    ]
    found += [
        {"id": color, "immutable": direction == "in", "name": f"stream_{color}", "type": "u32"}
        | {"kind": "Stream", "color": color, "inputs": []}
        for color, direction in sorted(image.streams.items())
    ]
    return found
