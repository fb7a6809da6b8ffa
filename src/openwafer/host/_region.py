"""Code regions of a layout: a rectangle of PEs with one program, its parameters, paint and ports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openwafer.base import InputError
from openwafer.host._geometry import IntRectangle, IntVector
from openwafer.host._routing import OUTWARD, Edge, EdgeRouteInfo, Route, RoutingPosition, completed

_COLORS = 24
_SYMBOL_TYPES = ("int32", "uint32", "float32", "int16", "uint16", "float16")


class Color:
    """A color with a number of its own, or one that the layout chooses. Two objects are two colors."""

    def __init__(self, name: str, value: int | None = None, *, region: str = "") -> None:
        if value is not None and not 0 <= value < _COLORS:
            raise InputError(f"color {name!r} has number {value}; a router has 0 to {_COLORS - 1}")
        self._name = name
        self._region = region
        self._value = value

    def get_global_name(self) -> str:
        """The name, behind its region's where it has one."""
        return f"{self._region}_{self._name}" if self._region else self._name

    def get_local_param_name(self) -> str:
        """The name, which is also that of the parameter that set_param sets."""
        return self._name

    def get_value(self) -> int | None:
        """The number, None until it was given or `SdkLayout.compile` chose it."""
        return self._value

    def allocate(self, value: int) -> None:
        """Give a color without a number its number."""
        self._value = value

    def __repr__(self) -> str:
        return f"Color({self.get_global_name()!r}, {self._value})"


@dataclass(frozen=True, slots=True, eq=False)
class PortHandle:
    """A port of a region: one lane for each PE of an edge, from west to east or north to south."""

    region: CodeRegion
    color: Color
    edge: Edge
    input: bool
    size: int
    name: str

    @property
    def side(self) -> Route:
        """Where the port's wavelets enter or leave its tiles."""
        return OUTWARD[self.edge]

    def lanes(self) -> list[tuple[int, int]]:
        """The PEs of the port, on the fabric."""
        return [
            (self.region.x + place.x, self.region.y + place.y) for place in self.region.edge_places(self.edge)
        ]


class CodeRegion:
    """A rectangle of PEs that run one program; `SdkLayout.create_code_region` makes it."""

    def __init__(self, source: Path, name: str, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise InputError(f"code region {name!r} is {width} x {height} PEs; it needs at least one")
        self.source = source
        self.name = name
        self.width = width
        self.height = height
        self.x = self.y = 0
        self.params: dict[tuple[int, int], dict[str, int | Color]] = {
            (x, y): {} for y in range(height) for x in range(width)
        }
        self.paints: dict[tuple[int, int], dict[Color, tuple[RoutingPosition, ...]]] = {
            place: {} for place in self.params
        }
        self.symbols: list[tuple[int, int, str, bytes]] = []
        self.ports: dict[str, PortHandle] = {}

    def color(self, name: str, value: int | None = None) -> Color:
        """A new color whose global name has the region's before it."""
        return Color(name, value, region=self.name)

    def place(self, x: int, y: int) -> None:
        """Put the region's north-west corner there on the fabric; regions begin at (0, 0)."""
        if x < 0 or y < 0:
            raise InputError(f"code region {self.name!r} is placed at ({x}, {y}), outside of the fabric")
        self.x, self.y = x, y

    # --- parameters ---

    def set_param(self, coord: IntVector, name: str | Color, value: int | Color | None = None) -> None:
        """Set a parameter of one PE: (coord, name, number), (coord, color), or (coord, name, color)."""
        self._set([self._inside(coord)], name, value)

    def set_param_all(self, name: str | Color, value: int | Color | None = None) -> None:
        """Set a parameter of every PE: (name, number), (color), or (name, color)."""
        self._set(list(self.params), name, value)

    def set_param_range(
        self, rect: IntRectangle, name: str | Color, value: int | Color | None = None
    ) -> None:
        """Set a parameter of the PEs of a rectangle: (rect, name, number), (rect, color), or (rect, name, color)."""
        self._set([self._inside(place) for place in rect.places()], name, value)

    def set_symbol_all(self, symbol: str, data: NDArray[Any], width: int, height: int) -> None:
        """Deal a two-dimensional array out to the PEs as the first value of a variable.

        `data` holds `height` rows of `width` elements; PE (x, y) gets the block of column x and row y, row by row.
        Raises InputError if the array or the blocks do not come out even.
        """
        if data.dtype.name not in _SYMBOL_TYPES:
            raise InputError(
                f"set_symbol_all({symbol!r}): elements of {data.dtype} cannot be stored; use one of {', '.join(_SYMBOL_TYPES)}"
            )
        if data.size != width * height or width % self.width or height % self.height:
            raise InputError(
                f"set_symbol_all({symbol!r}): {data.size} elements as {width} x {height} do not deal out evenly to "
                f"{self.width} x {self.height} PEs"
            )
        rows, columns = height // self.height, width // self.width
        whole = np.ascontiguousarray(data).reshape(height, width)
        for x, y in self.params:
            block = whole[y * rows : (y + 1) * rows, x * columns : (x + 1) * columns]
            self.symbols.append((x, y, symbol, block.astype(data.dtype.newbyteorder("<")).tobytes()))

    # --- routes ---

    def paint(self, coord: IntVector, color: Color, routes: list[RoutingPosition]) -> None:
        """Set the routes of a color on one PE."""
        self.paints[self._inside(coord)][color] = tuple(routes)

    def paint_range(self, rect: IntRectangle, color: Color, routes: list[RoutingPosition]) -> None:
        """Set the routes of a color on the PEs of a rectangle."""
        for place in rect.places():
            self.paint(place, color, routes)

    def paint_all(
        self,
        color: Color,
        routes: list[RoutingPosition],
        edge_routes: Iterable[EdgeRouteInfo] = (),
    ) -> None:
        """Set the routes of a color on every PE, with others on some edges."""
        for place in self.params:
            self.paints[place][color] = tuple(routes)
        for info in edge_routes:
            for edge_place in self.edge_places(info.edge):
                self.paint(edge_place, color, list(info.routes))

    def edge_places(self, edge: Edge) -> list[IntVector]:
        """The PEs of an edge, from west to east or north to south."""
        if edge in (Edge.TOP, Edge.BOTTOM):
            return [IntVector(x, 0 if edge is Edge.TOP else self.height - 1) for x in range(self.width)]
        return [IntVector(0 if edge is Edge.LEFT else self.width - 1, y) for y in range(self.height)]

    # --- ports ---

    def create_input_port(
        self, color: Color, edge: Edge, routes: list[RoutingPosition], data_size: int, prefix: str = ""
    ) -> PortHandle:
        """A port through which `data_size` words of a color come in over an edge.

        `routes` name the outputs of each position; the input is the edge.
        """
        return self._port(color, edge, completed(routes, input=OUTWARD[edge]), data_size, prefix, True)

    def create_output_port(
        self, color: Color, edge: Edge, routes: list[RoutingPosition], data_size: int, prefix: str = ""
    ) -> PortHandle:
        """A port through which `data_size` words of a color go out over an edge.

        `routes` name the inputs of each position; the output is the edge.
        """
        return self._port(color, edge, completed(routes, output=OUTWARD[edge]), data_size, prefix, False)

    # --- inside ---

    def _port(
        self,
        color: Color,
        edge: Edge,
        routes: tuple[RoutingPosition, ...],
        size: int,
        prefix: str,
        is_input: bool,
    ) -> PortHandle:
        name = f"{prefix}{self.name}_{color.get_local_param_name()}"
        if name in self.ports:
            raise InputError(
                f"code region {self.name!r} has a port {name!r} already; give this one a prefix of its own"
            )
        for place in self.edge_places(edge):
            self.paints[place.x, place.y][color] = routes
        self.ports[name] = PortHandle(self, color, edge, is_input, size, name)
        return self.ports[name]

    def _set(self, places: list[tuple[int, int]], name: str | Color, value: int | Color | None) -> None:
        if isinstance(name, Color):
            if value is not None:
                raise InputError("a parameter is set by its name and a value, or by a color alone")
            text = name.get_local_param_name()
            chosen: int | Color = name
        elif isinstance(value, (int, np.integer)):
            text, chosen = name, int(value)
        elif isinstance(value, Color):
            text, chosen = name, value
        else:
            raise InputError(f"parameter {name!r} is set to {value!r}; expected a whole number or a Color")
        for place in places:
            self.params[place][text] = chosen

    def _inside(self, coord: IntVector) -> tuple[int, int]:
        if (coord.x, coord.y) not in self.params:
            raise InputError(
                f"({coord.x}, {coord.y}) lies outside of code region {self.name!r} of {self.width} x {self.height} PEs"
            )
        return coord.x, coord.y
