"""Routes as layouts write them: directions, edges, positions of a switch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from openwafer.artifact._image import Direction, SwitchPosition
from openwafer.artifact._image import Route as ImageRoute
from openwafer.base import InputError


class Route(Enum):
    """A side of a router."""

    RAMP = "RAMP"
    EAST = "EAST"
    WEST = "WEST"
    NORTH = "NORTH"
    SOUTH = "SOUTH"


class Edge(Enum):
    """An edge of a code region."""

    TOP = "TOP"
    BOTTOM = "BOTTOM"
    LEFT = "LEFT"
    RIGHT = "RIGHT"


OUTWARD: dict[Edge, Route] = {
    Edge.TOP: Route.NORTH,
    Edge.BOTTOM: Route.SOUTH,
    Edge.LEFT: Route.WEST,
    Edge.RIGHT: Route.EAST,
}
STEP: dict[Route, tuple[int, int]] = {
    Route.EAST: (1, 0),
    Route.SOUTH: (0, 1),
    Route.WEST: (-1, 0),
    Route.NORTH: (0, -1),
}
OPPOSITE: dict[Route, Route] = {
    Route.EAST: Route.WEST,
    Route.WEST: Route.EAST,
    Route.NORTH: Route.SOUTH,
    Route.SOUTH: Route.NORTH,
}


class RoutingPosition:
    """Where wavelets may come from and where they go in one position of a switch. Setters give the position itself."""

    def __init__(self) -> None:
        self._input: list[Route] = []
        self._output: list[Route] = []

    def set_input(self, routes: list[Route]) -> RoutingPosition:
        self._input = list(routes)
        return self

    def set_output(self, routes: list[Route]) -> RoutingPosition:
        self._output = list(routes)
        return self

    def add_input(self, route: Route) -> RoutingPosition:
        self._input.append(route)
        return self

    def add_output(self, route: Route) -> RoutingPosition:
        self._output.append(route)
        return self

    def get_input(self) -> list[Route]:
        return list(self._input)

    def get_output(self) -> list[Route]:
        return list(self._output)

    def __repr__(self) -> str:
        return f"RoutingPosition({_names(self._input)} -> {_names(self._output)})"


@dataclass(frozen=True, slots=True)
class EdgeRouteInfo:
    """What an edge of a region has in place of the region's own positions."""

    edge: Edge
    routes: tuple[RoutingPosition, ...]


def get_edge_routing(edge: Edge, routes: list[RoutingPosition]) -> EdgeRouteInfo:
    """Positions for an edge, as `CodeRegion.paint_all` takes them."""
    return EdgeRouteInfo(edge, tuple(routes))


def completed(
    positions: list[RoutingPosition], *, input: Route | None = None, output: Route | None = None
) -> tuple[RoutingPosition, ...]:
    """Copies of positions with the side of a port filled in where they name none."""
    return tuple(
        RoutingPosition()
        .set_input(one.get_input() or ([input] if input else []))
        .set_output(one.get_output() or ([output] if output else []))
        for one in positions
    )


def image_route(positions: tuple[RoutingPosition, ...], what: str) -> ImageRoute:
    """The route of one color of one router, position 0 being the first.

    Raises InputError if there are none or more than four positions, or one lacks its input or output.
    """
    if not 1 <= len(positions) <= 4:
        raise InputError(f"{what} has {len(positions)} routing positions; a router has 1 to 4")
    for number, position in enumerate(positions):
        if not position.get_input() or not position.get_output():
            raise InputError(
                f"{what}: position {number} is {position}; it needs an input and an output, set with set_input and set_output"
            )
    first = positions[0]
    rx, tx = _directions(first.get_input()), _directions(first.get_output())
    switches = []
    for position in positions[1:]:
        other_rx, other_tx = _directions(position.get_input()), _directions(position.get_output())
        switches.append(
            SwitchPosition(
                rx=other_rx if other_rx != rx else None,
                tx=other_tx if other_tx != tx else None,
            )
        )
    return ImageRoute(rx=rx, tx=tx, positions=tuple(switches))


def _directions(routes: list[Route]) -> tuple[Direction, ...]:
    return tuple(route.value for route in dict.fromkeys(routes))


def _names(routes: list[Route]) -> str:
    return "+".join(route.name for route in routes) or "nothing"
