"""SdkLayout: programs laid out in Python instead of a layout block ("SdkLayout API Reference")."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, Literal

import msgspec

from openwafer.artifact._image import Image, Port, Tile
from openwafer.artifact._image import Route as ImageRoute
from openwafer.base import InputError, StorageError
from openwafer.host._artifacts import InitialValue, SdkCompileArtifacts, write_artifacts
from openwafer.host._geometry import IntVector
from openwafer.host._paths import Nets, Place, connect_lanes, neighbour, tiles_of
from openwafer.host._platform import SdkExecutionPlatform, SdkTarget, get_platform
from openwafer.host._port_files import write_port_map
from openwafer.host._region import CodeRegion, Color, PortHandle
from openwafer.host._routing import Route, RoutingPosition, image_route

_EMPTY = "<empty>"  # the library's program that does nothing
_MARGIN = 2  # free columns and rows around the regions, for ways


class FP16TYPE(Enum):
    """What @fp16() is."""

    F16 = "f16"
    BF16 = "bf16"
    CB16 = "cb16"


class SdkLayout:
    """Code regions on a fabric, their connections, and streams to and from the host.

    Colors without a number get one, and connections get routes, when `compile` is called. The fabric is as large as the regions
    need. A stream's host end stands right at its port's edge.
    """

    def __init__(
        self, platform: SdkExecutionPlatform | SdkTarget | Path | str, *, msg_level: str = "WARNING"
    ) -> None:
        if isinstance(platform, SdkTarget):
            platform = get_platform(target=platform)
        if isinstance(platform, Path | str):
            raise InputError(
                f"SdkLayout cannot read the fabric file {platform}, whose form is not published; name the target instead: "
                "SdkLayout(SdkTarget.WSE3), or what get_platform gives"
            )
        if not isinstance(platform, SdkExecutionPlatform):
            raise InputError(
                f"SdkLayout is made for what get_platform gives, or for an SdkTarget, not for {platform!r}"
            )
        self._architecture = platform.architecture
        self._regions: dict[str, CodeRegion] = {}
        self._connections: list[tuple[PortHandle, PortHandle]] = []
        self._streams: dict[str, PortHandle] = {}
        self._open: dict[str, tuple[Place, Color, Literal["in", "out"]]] = {}

    def create_code_region(self, source: str | Path, name: str, width: int, height: int) -> CodeRegion:
        """A region of `width` x `height` PEs that run the program in `source`; it lies at (0, 0) until it is placed."""
        path = Path(source)
        if not path.is_file():
            raise InputError(f"code region {name!r}: there is no file {source}")
        if name in self._regions:
            raise InputError(f"the layout has a code region {name!r} already; names are unique")
        self._regions[name] = CodeRegion(path.resolve(), name, width, height)
        return self._regions[name]

    def connect(self, tx: PortHandle, rx: PortHandle) -> None:
        """Let what leaves output port `tx` arrive at input port `rx`; `compile` finds the ways."""
        if tx.input or not rx.input:
            raise InputError(
                f"connect takes an output port and an input port, not {_kind(tx)} {tx.name!r} and {_kind(rx)} {rx.name!r}"
            )
        self._connections.append((tx, rx))

    def create_input_stream(
        self, port: PortHandle, io_loc: IntVector | None = None, io_buffer_size: int = 1024
    ) -> str:
        """A stream from the host to an input port of one PE; gives the name that SdkRuntime.send takes.

        io_loc and io_buffer_size are accepted: the host's words wait at the port itself, as many as there are.
        """
        return self._stream(port, is_input=True)

    def create_output_stream(
        self, port: PortHandle, io_loc: IntVector | None = None, io_buffer_size: int = 1024
    ) -> str:
        """A stream from an output port of one PE to the host; gives the name that SdkRuntime.receive takes."""
        return self._stream(port, is_input=False)

    def create_input_stream_from_loc(self, loc: IntVector, color: Color, prefix: str = "") -> str:
        """A stream from the host to a PE whose painted route of the color takes it in; gives its name."""
        return self._stream_at(loc, color, prefix, "in")

    def create_output_stream_from_loc(self, loc: IntVector, color: Color, prefix: str = "") -> str:
        """A stream to the host from a PE whose painted route of the color sends it out; gives its name."""
        return self._stream_at(loc, color, prefix, "out")

    def hstack(self, children: list[CodeRegion], origin: IntVector | None = None) -> int:
        """Place regions side by side from the first one's place, or from `origin`; gives their width together."""
        return self._stack(children, origin, 1, 0)

    def vstack(self, children: list[CodeRegion], origin: IntVector | None = None) -> int:
        """Place regions below each other from the first one's place, or from `origin`; gives their height together."""
        return self._stack(children, origin, 0, 1)

    def compile(
        self,
        out_prefix: str,
        libs: list[str] | None = None,
        cslc_prefix: str = "",
        save_port_map: bool = False,
        f16_type: FP16TYPE = FP16TYPE.F16,
    ) -> SdkCompileArtifacts:
        """Choose numbers and ways, compile every program, and write the folder `out_prefix`.

        `libs` are folders where @import_module looks too. The map of the ports is written to
        the folder, and with `save_port_map` also beside it as `out_prefix` + "_port_map.json".
        Raises CslError if a program is wrong, InputError if regions overlap or something cannot be routed.
        """
        folder = Path(out_prefix)
        size, routes, ports = self._routed()
        image = self._compiled(folder, size, [Path(lib) for lib in libs or []], f16_type)
        image = _with_routes(image, routes, tuple(ports))
        values = [
            InitialValue(region.x + x, region.y + y, symbol, data)
            for region in self._regions.values()
            for x, y, symbol, data in region.symbols
        ]
        artifacts = write_artifacts(image, folder, initial_values=values)
        if save_port_map:
            write_port_map(folder.with_name(f"{folder.name}_port_map.json"), image.ports)
        return artifacts

    # --- inside ---

    def _stream(self, port: PortHandle, *, is_input: bool) -> str:
        if port.input is not is_input:
            raise InputError(f"{_kind(port)} {port.name!r} cannot be a stream that way")
        if len(port.lanes()) != 1:
            raise InputError(
                f"port {port.name!r} is {len(port.lanes())} PEs wide, and a stream feeds one PE; put a region of one PE and one "
                "that spreads its data in between"
            )
        if port.name in self._streams:
            raise InputError(f"port {port.name!r} has a stream already")
        self._streams[port.name] = port
        return port.name

    def _stream_at(self, loc: IntVector, color: Color, prefix: str, direction: Literal["in", "out"]) -> str:
        name = f"{prefix}{color.get_global_name()}_{direction}"
        if name in self._open:
            raise InputError(f"there is a stream {name!r} already; give this one a prefix of its own")
        self._open[name] = ((loc.x, loc.y), color, direction)
        return name

    def _stack(self, children: list[CodeRegion], origin: IntVector | None, right: int, down: int) -> int:
        if not children:
            raise InputError("a stack needs at least one code region")
        x, y = (children[0].x, children[0].y) if origin is None else (origin.x, origin.y)
        total = 0
        for child in children:
            child.place(x + right * total, y + down * total)
            total += right * child.width + down * child.height
        return total

    def _routed(self) -> tuple[Place, dict[Place, dict[int, ImageRoute]], list[Port]]:
        """Size of the fabric, routes by tile and number, ports; colors have their numbers afterwards."""
        nets = Nets()
        taken = self._places()
        width = max(x for x, _ in taken) + 1 + _MARGIN
        height = max(y for _, y in taken) + 1 + _MARGIN
        for tx, rx in self._connections:
            nets.join(tx.color, rx.color)
        painted: dict[Place, list[tuple[Color, tuple[RoutingPosition, ...], str]]] = {}
        for region in self._regions.values():
            for (x, y), paints in region.paints.items():
                place = (region.x + x, region.y + y)
                what = f"code region {region.name!r}, PE ({x}, {y})"
                for color, positions in paints.items():
                    nets.use(color, place, switched=len(positions) > 1)
                    painted.setdefault(place, []).append((color, positions, what))
                for value in region.params[x, y].values():
                    if isinstance(value, Color):
                        nets.use(value, place)
        ends = [*self._stream_ends(), *self._open_ends(painted)]
        for _, color, place, side, _ in ends:
            # What leaves to the host, or comes from it, must not meet a route of the same color on the next tile.
            if side is not Route.RAMP:
                nets.use(color, neighbour(place, side))
        for tx, rx in self._connections:
            way = connect_lanes(tx, rx, nets, set(taken), (width, height))
            what = f"the connection from {tx.name!r} to {rx.name!r}"
            for place, position in way.items():
                painted.setdefault(place, []).append((tx.color, (position,), what))
        nets.allocate(self._architecture)
        routes: dict[Place, dict[int, ImageRoute]] = {}
        for place, entries in painted.items():
            for color, positions, what in entries:
                number = _number(color)
                if number in routes.setdefault(place, {}):
                    raise InputError(f"{what}: {color!r} has a route there already")
                routes[place][number] = image_route(positions, f"{what}, {color!r}")
        ports = [
            Port(name, direction, place[0], place[1], side.value, _number(color))
            for name, color, place, side, direction in ends
        ]
        return (width, height), routes, ports

    def _places(self) -> dict[Place, str]:
        taken: dict[Place, str] = {}
        for region in self._regions.values():
            for place in tiles_of(region.params, (region.x, region.y)):
                if place in taken:
                    raise InputError(
                        f"code regions {taken[place]!r} and {region.name!r} overlap on PE {place}; place() one elsewhere"
                    )
                taken[place] = region.name
        if not taken:
            raise InputError("the layout has no code region; create_code_region makes one")
        return taken

    def _stream_ends(self) -> list[tuple[str, Color, Place, Route, Literal["in", "out"]]]:
        return [
            (name, port.color, port.lanes()[0], port.side, "in" if port.input else "out")
            for name, port in self._streams.items()
        ]

    def _open_ends(
        self, painted: dict[Place, list[tuple[Color, tuple[RoutingPosition, ...], str]]]
    ) -> list[tuple[str, Color, Place, Route, Literal["in", "out"]]]:
        ends: list[tuple[str, Color, Place, Route, Literal["in", "out"]]] = []
        for name, (place, color, direction) in self._open.items():
            for painted_color, positions, _ in painted.get(place, []):
                if painted_color is color:
                    sides = positions[0].get_input() if direction == "in" else positions[0].get_output()
                    side = next((one for one in sides if one is not Route.RAMP), Route.RAMP)
                    ends.append((name, color, place, side, direction))
                    break
            else:
                raise InputError(
                    f"stream {name!r}: {color!r} has no route on PE {place}; paint it there first"
                )
        return ends

    def _compiled(self, folder: Path, size: Place, libs: list[Path], half: FP16TYPE) -> Image:
        """The programs, compiled as a layout of CSL that stands in the folder for who wants to see it."""
        from openwafer.csl._compile import compile_program

        lines = ["// Written by SdkLayout.compile: the programs of its code regions.", "layout {"]
        lines.append(f"  @set_rectangle({size[0]}, {size[1]});")
        for region in self._regions.values():
            for (x, y), params in region.params.items():
                fields = ", ".join(f".{name} = {_text(value)}" for name, value in params.items())
                source = str(region.source).replace("\\", "/")
                lines.append(
                    f'  @set_tile_code({region.x + x}, {region.y + y}, "{source}", .{{ {fields} }});'
                )
        taken = self._places()
        lines += [
            f'  @set_tile_code({x}, {y}, "{_EMPTY}");'
            for y in range(size[1])
            for x in range(size[0])
            if (x, y) not in taken
        ]
        path = folder / "layout.csl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([*lines, "}", ""]), encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error.strerror}; choose another out_prefix"
            ) from error
        options: dict[str, Any] = {"half": half.value, "import_paths": tuple(libs)}
        image: Image = compile_program(
            path,
            params={},
            architecture=self._architecture,
            fabric=size,
            offset=(0, 0),
            memcpy=False,
            **options,
        )
        return image


def _with_routes(image: Image, routes: dict[Place, dict[int, ImageRoute]], ports: tuple[Port, ...]) -> Image:
    tiles = {
        (tile.x, tile.y): tile
        for tile in image.tiles
        if tile.program is not None and image.programs[tile.program].name != _EMPTY
    }
    for (x, y), found in routes.items():
        tile = tiles.get((x, y)) or Tile(x, y)
        tiles[x, y] = msgspec.structs.replace(tile, routes={**found, **tile.routes})
    ordered = tuple(tiles[place] for place in sorted(tiles, key=lambda place: (place[1], place[0])))
    return msgspec.structs.replace(image, tiles=ordered, ports=ports)


def _number(color: Color) -> int:
    number = color.get_value()
    assert number is not None, "every color that is painted or joined is allocated"
    return number


def _text(value: int | Color) -> str:
    return f"@get_color({_number(value)})" if isinstance(value, Color) else str(value)


def _kind(port: PortHandle) -> str:
    return "input port" if port.input else "output port"
