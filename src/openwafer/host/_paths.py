"""Routes between regions: a way over the fabric for each lane of a connection, and a number for each color.

A wavelet keeps its color on its way, so colors that a connection joins are one net and get one number. A router has one route
for a color, so no two lanes of a net may cross, and two nets that meet on a tile need two numbers.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from openwafer.base import InputError
from openwafer.host._region import Color, PortHandle
from openwafer.host._routing import OPPOSITE, STEP, Route, RoutingPosition

Place = tuple[int, int]

_THROUGH_REGION = 4  # steps that a way through a region counts for: free tiles are shorter as long as that
_WITH_SWITCHES = {
    "wse3": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 20, 21)
}  # facts: csl colors with switches
_NUMBERS = tuple(range(24))


class Nets:
    """Which colors are one net, and on which tiles each net has a route."""

    def __init__(self) -> None:
        self._parent: dict[Color, Color] = {}
        self.tiles: dict[Color, set[Place]] = {}
        self._switched: set[Color] = set()

    def net(self, color: Color) -> Color:
        """The color that stands for the net of a color."""
        while (above := self._parent.setdefault(color, color)) is not color:
            color = above
        return color

    def join(self, first: Color, second: Color) -> None:
        """Make two colors one net. Raises InputError if both have numbers that differ."""
        one, other = self.net(first), self.net(second)
        if one is other:
            return
        if None not in (one.get_value(), other.get_value()) and one.get_value() != other.get_value():
            raise InputError(
                f"a connection joins {first!r} and {second!r}, whose numbers differ; give both the same or leave one out"
            )
        if one.get_value() is None:
            one, other = other, one
        self._parent[other] = one
        self.tiles.setdefault(one, set()).update(self.tiles.pop(other, set()))
        if other in self._switched:
            self._switched.add(one)

    def use(self, color: Color, place: Place, *, switched: bool = False) -> None:
        """A net is in use on a tile, and there with switch positions if so."""
        net = self.net(color)
        self.tiles.setdefault(net, set()).add(place)
        if switched:
            self._switched.add(net)

    def allocate(self, architecture: str) -> None:
        """Give every color a number: the lowest that no net on the same tiles has.

        Raises InputError if two numbers that were given clash, or none is left.
        """
        numbers: dict[Color, int] = {
            net: value for net in self.tiles if (value := net.get_value()) is not None
        }
        for net, number in numbers.items():
            self._check_clash(net, number, numbers)
        for net in sorted(
            (net for net in self.tiles if net not in numbers), key=lambda one: -len(self.tiles[one])
        ):
            allowed = _WITH_SWITCHES.get(architecture, _NUMBERS) if net in self._switched else _NUMBERS
            taken = {
                number
                for other, number in numbers.items()
                if not self.tiles[net].isdisjoint(self.tiles[other])
            }
            free = [number for number in allowed if number not in taken]
            if not free:
                raise InputError(
                    f"no number is left for {net!r}: {len(taken)} other colors share tiles with it; place regions further apart"
                )
            numbers[net] = free[0]
        for color in self._parent:
            if color.get_value() is None:
                color.allocate(numbers[self.net(color)])

    def _check_clash(self, net: Color, number: int, numbers: dict[Color, int]) -> None:
        for other, value in numbers.items():
            if other is not net and value == number and (shared := self.tiles[net] & self.tiles[other]):
                x, y = min(shared)
                raise InputError(
                    f"{net!r} and {other!r} have one number and meet on PE ({x}, {y}); change one of them"
                )


def connect_lanes(
    tx: PortHandle, rx: PortHandle, nets: Nets, regions: set[Place], size: Place
) -> dict[Place, RoutingPosition]:
    """Routes of the tiles between two ports, lane by lane; the tiles come into use by the net.

    Raises InputError if the ports do not fit each other or there is no way.
    """
    pairs = list(zip(tx.lanes(), rx.lanes(), strict=False))
    if len(tx.lanes()) != len(rx.lanes()) or tx.size != rx.size:
        raise InputError(
            f"port {tx.name!r} sends {tx.size} words over {len(tx.lanes())} PEs, and {rx.name!r} receives {rx.size} over "
            f"{len(rx.lanes())}; they must agree"
        )
    found: dict[Place, RoutingPosition] = {}
    net = nets.net(tx.color)
    for start, end in pairs:
        way = _way(start, tx.side, end, rx.side, nets.tiles.setdefault(net, set()), regions, size)
        if way is None:
            raise InputError(
                f"no way from PE {start} ({tx.name}, {tx.edge.name}) to PE {end} ({rx.name}, {rx.edge.name}): tiles with a "
                "route of the same color stand between; move the regions apart or turn a port to another edge"
            )
        for place, position in way.items():
            found[place] = position
            nets.use(tx.color, place)
    return found


def _way(
    start: Place, out: Route, end: Place, into: Route, blocked: set[Place], regions: set[Place], size: Place
) -> dict[Place, RoutingPosition] | None:
    """The cheapest way that leaves `start` at `out` and enters `end` from its side `into`; ties break in a fixed order."""
    first, last = neighbour(start, out), neighbour(end, into)
    if first == end and last == start:
        return {}
    if not _free(first, blocked, size) or not _free(last, blocked, size):
        return None
    came: dict[Place, tuple[Place, Route] | None] = {first: None}
    costs = {first: 0}
    heap = [(0, first)]
    while heap:
        cost, place = heapq.heappop(heap)
        if place == last:
            break
        if cost > costs[place]:
            continue
        for side in STEP:
            following = neighbour(place, side)
            if not _free(following, blocked, size):
                continue
            higher = cost + (_THROUGH_REGION if following in regions else 1)
            if higher < costs.get(following, 1 << 30):
                costs[following] = higher
                came[following] = (place, side)
                heapq.heappush(heap, (higher, following))
    if last not in came:
        return None
    way: dict[Place, RoutingPosition] = {}
    place, leaves = last, OPPOSITE[into]
    while True:
        step = came[place]
        enters = OPPOSITE[step[1] if step else out]
        way[place] = RoutingPosition().set_input([enters]).set_output([leaves])
        if step is None:
            return way
        place, leaves = step


def neighbour(place: Place, side: Route) -> Place:
    """The tile on a side of a tile."""
    return place[0] + STEP[side][0], place[1] + STEP[side][1]


def _free(place: Place, blocked: set[Place], size: Place) -> bool:
    return 0 <= place[0] < size[0] and 0 <= place[1] < size[1] and place not in blocked


def tiles_of(places: Iterable[Place], corner: Place) -> set[Place]:
    """Places of a region on the fabric."""
    return {(corner[0] + x, corner[1] + y) for x, y in places}
