"""Who goes first where many streams want one link or ramp: the core against a model that tries everything every cycle."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TypeVar

from fabric_probe import EAST, NORTH, OPPOSITE, RAMP, SOUTH, STEP, WEST, NetworkProbe
from hypothesis import given, settings
from hypothesis import strategies as st

T = TypeVar("T")
SIZE = 3
Place = tuple[int, int]
Route = tuple[Place, int]  # tile, color
Input = tuple[Place, int, int]  # tile, color, side: in the order in which equals go


@dataclass(frozen=True)
class Timing:
    """The network's and the readers' times and sizes; a depth of 0 is a queue without limit."""

    hop_cycles: int
    ramp_in_cycles: int
    ramp_out_cycles: int
    buffer_wavelets: int
    depth: int
    every: int


@dataclass
class Model:
    """The rules of the network's documentation, one cycle after another: nobody sleeps and nothing is remembered."""

    timing: Timing
    rx: dict[Route, int]
    tx: dict[Route, int]
    feeds: dict[Route, deque[int]]
    buffers: dict[Input, deque[tuple[int, int]]] = field(default_factory=dict)  # (may leave from, data)
    served: dict[Input, int] = field(default_factory=dict)  # when a wavelet last left
    ramps: dict[Route, deque[tuple[int, int]]] = field(default_factory=dict)
    unread: Counter[Route] = field(default_factory=Counter)
    arrivals: dict[Route, list[tuple[int, int, bool]]] = field(default_factory=dict)
    hops: int = 0

    def run(self) -> None:
        """Until every wavelet has arrived."""
        self.buffers = {
            (*at, side): deque() for at, rx in self.rx.items() for side in (*STEP, RAMP) if rx & side
        }
        self.ramps = {at: deque() for at in self.rx}
        self.arrivals = {at: [] for at in self.rx}
        cycle = 0
        while any(self.feeds.values()) or any(self.buffers.values()) or any(self.ramps.values()):
            self.routers(cycle)
            self.elements(cycle)
            cycle += 1

    def routers(self, cycle: int) -> None:
        """Ramps hand down, then each router grants its links and its ramp by who was served longest ago."""
        ready_to_read = {at for at in self.rx if not 0 < self.timing.depth <= self.unread[at]}
        for at, ramp in self.ramps.items():
            if ramp and ramp[0][0] <= cycle and at in ready_to_read:
                self.arrive(cycle, at, ramp.popleft()[1])
        held = {key: len(buffer) for key, buffer in self.buffers.items()}
        waiting = [key for key, buffer in self.buffers.items() if buffer and buffer[0][0] <= cycle]
        used: Counter[Place] = Counter()
        for key in sorted(waiting, key=lambda key: (self.served.get(key, -1), key)):
            place, color, _ = key
            tx = self.tx[place, color]
            ahead = [
                ((place[0] + STEP[side][0], place[1] + STEP[side][1]), color, OPPOSITE[side])
                for side in STEP
                if tx & side
            ]
            room = all(held[to] < self.timing.buffer_wavelets for to in ahead)
            if tx & RAMP and self.timing.ramp_out_cycles:
                room &= len(self.ramps[place, color]) < self.timing.ramp_out_cycles
            elif tx & RAMP:
                room &= (place, color) in ready_to_read
            if not room or used[place] & tx:
                continue
            used[place] |= tx
            self.served[key] = cycle
            self.hops += len(ahead)
            _, data = self.buffers[key].popleft()
            for to in ahead:
                self.buffers[to].append((cycle + self.timing.hop_cycles, data))
            if tx & RAMP and self.timing.ramp_out_cycles:
                self.ramps[place, color].append((cycle + self.timing.ramp_out_cycles, data))
            elif tx & RAMP:
                self.arrive(cycle, (place, color), data)

    def arrive(self, cycle: int, at: Route, data: int) -> None:
        """The queue of the processing element takes the wavelet."""
        self.arrivals[at].append((cycle, data, False))
        self.unread[at] += 1

    def elements(self, cycle: int) -> None:
        """Each processing element reads one wavelet a color, then offers one a color."""
        for at in self.rx:
            if self.unread[at] and cycle % self.timing.every == 0:
                self.unread[at] -= 1
        for at, feed in self.feeds.items():
            buffer = self.buffers[(*at, RAMP)]
            if feed and len(buffer) < self.timing.buffer_wavelets:
                buffer.append((cycle + self.timing.ramp_in_cycles, feed.popleft()))


@dataclass(frozen=True)
class Streams:
    """One color: every tile's way to the same end, who sends how much, and who gets a copy on the way."""

    end: Place
    rows_first: list[bool]
    sent: list[int]
    copies: list[bool]

    def tx(self, place: Place) -> int:
        """Where a wavelet goes from here."""
        (x, y), (to_x, to_y) = place, self.end
        index = x + SIZE * y
        copy = RAMP if self.copies[index] else 0
        if place == self.end:
            return RAMP
        if x != to_x and (self.rows_first[index] or y == to_y):
            return copy | (EAST if x < to_x else WEST)
        return copy | (SOUTH if y < to_y else NORTH)


def each(value: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    """One for every tile."""
    return st.lists(value, min_size=SIZE * SIZE, max_size=SIZE * SIZE)


streams = st.builds(
    Streams,
    end=st.sampled_from([(1, 1), (2, 1)]),
    rows_first=each(st.booleans()),
    sent=each(st.sampled_from([0, 1, 6])),
    copies=each(st.sampled_from([False, False, False, True])),
)
timings = st.builds(
    Timing,
    hop_cycles=st.integers(1, 3),
    ramp_in_cycles=st.integers(1, 2),
    ramp_out_cycles=st.integers(0, 2),
    buffer_wavelets=st.integers(1, 4),
    depth=st.integers(0, 2),
    every=st.integers(1, 3),
)


@settings(max_examples=60, deadline=None)
@given(colors=st.lists(streams, min_size=1, max_size=5), timing=timings, trains=st.booleans())
def test_every_wavelet_arrives_in_the_cycle_that_the_rules_say(
    colors: list[Streams], timing: Timing, trains: bool
) -> None:
    """Up to five colors that all end at one or two ramps: what the core skips or moves at once must change no cycle."""
    check(colors, timing, trains)


def test_a_router_may_have_more_inputs_than_a_mask_has_bits() -> None:
    """All 24 colors from four sides and the ramp are 120 inputs of one router, of which the core marks 63 one by one."""
    tiles = SIZE * SIZE
    rows_first = [bool(index % 2) for index in range(tiles)]
    stream = Streams(end=(1, 1), rows_first=rows_first, sent=[2] * tiles, copies=[False] * tiles)
    check([stream] * 24, Timing(2, 2, 1, 2, 1, 2), True)


def check(colors: list[Streams], timing: Timing, trains: bool) -> None:
    """The core and the model, cycle by cycle."""
    probe = NetworkProbe(
        SIZE,
        SIZE,
        hop_cycles=timing.hop_cycles,
        ramp_in_cycles=timing.ramp_in_cycles,
        ramp_out_cycles=timing.ramp_out_cycles,
        buffer_wavelets=timing.buffer_wavelets,
        trains=trains,
    )
    places = [(x, y) for y in range(SIZE) for x in range(SIZE)]
    tx = {(at, color): stream.tx(at) for color, stream in enumerate(colors) for at in places}
    rx: dict[Route, int] = dict.fromkeys(tx, RAMP)
    for ((x, y), color), sides in tx.items():
        for side, (dx, dy) in STEP.items():
            if sides & side:
                rx[(x + dx, y + dy), color] |= OPPOSITE[side]
    feeds: dict[Route, deque[int]] = {}
    for ((x, y), color), sides in tx.items():
        index = x + SIZE * y
        words = range(100 * index, 100 * index + colors[color].sent[index])
        probe.configure(x, y, color, rx[(x, y), color], sides)
        probe.listen(x, y, color, depth=timing.depth, every=timing.every)
        probe.feed(x, y, color, [(word, False) for word in words])
        feeds[(x, y), color] = deque(words)
    model = Model(timing, rx, tx, feeds)

    model.run()
    probe.run()

    assert probe.failure() == ""
    assert probe.held() == []
    assert probe.hops() == model.hops
    for ((x, y), color), arrivals in model.arrivals.items():
        assert probe.arrivals(x, y, color) == arrivals
