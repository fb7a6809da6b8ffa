"""Trains are an optimisation: with and without them every wavelet arrives in the same cycle."""

from __future__ import annotations

from fabric_probe import EAST, NORTH, RAMP, SOUTH, TEARDOWN, WEST, NetworkProbe, line, payload
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network_model import SIZE, Flow, flows, probed

Events = list[tuple[int, int, int]]


def crossroads(
    events: Events, pauses: list[tuple[int, int]], hop: int, depth: int, every: int, trains: bool
) -> NetworkProbe:
    """A long row on color 0 whose reader may be slow, and columns on color 1 that cross it and share its routers."""
    width = 14
    probe = NetworkProbe(width, 3, hop_cycles=hop, trains=trains)
    for x in range(width):
        probe.configure(x, 1, 0, WEST if x else RAMP, EAST if x + 1 < width else RAMP)
    probe.listen(width - 1, 1, 0, depth=depth, every=every)
    probe.stream(0, 1, 0, 60)
    for x, start, count in events:
        probe.configure(x, 0, 1, RAMP, SOUTH)
        probe.configure(x, 1, 1, NORTH, EAST)
        probe.configure(x + 1, 1, 1, WEST, SOUTH)
        probe.configure(x + 1, 2, 1, NORTH, RAMP)
        probe.listen(x + 1, 2, 1, depth=2, every=3)
        probe.stream(x, 0, 1, count, start=start)
    for at, x in pauses:
        probe.run(at)
        probe.write_route(x, 1, 0, probe.read_route(x, 1, 0) ^ 1 << 14)
        probe.run(7)
        probe.write_route(x, 1, 0, probe.read_route(x, 1, 0) ^ 1 << 14)
    probe.run()
    return probe


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.sampled_from([2, 5, 8, 11]), st.integers(0, 90), st.integers(1, 9)),
        max_size=4,
        unique_by=lambda event: event[0],
    ),
    pauses=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), max_size=2),
    hop=st.integers(1, 3),
    depth=st.integers(1, 4),
    every=st.integers(1, 3),
)
def test_trains_change_no_cycle(
    events: Events, pauses: list[tuple[int, int]], hop: int, depth: int, every: int
) -> None:
    """Traffic that crosses, shares links, is paused by registers or held by a slow reader takes a train apart exactly."""
    moved, single = (crossroads(events, pauses, hop, depth, every, trains) for trains in (True, False))

    assert moved.hops() == single.hops()
    for x, y, color in [(13, 1, 0), *((x + 1, 2, 1) for x, _, _ in events)]:
        assert moved.arrivals(x, y, color) == single.arrivals(x, y, color)
        assert moved.arrived(x, y, color) > 0


@settings(max_examples=100, deadline=None)
@given(
    traffic=st.lists(flows(), min_size=1, max_size=4),
    speeds=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=4, max_size=4),
    hop=st.integers(1, 3),
)
def test_trains_change_no_cycle_of_trees_with_switches(
    traffic: list[Flow], speeds: list[tuple[int, int]], hop: int
) -> None:
    """The same over the random trees of the routing model."""
    moved, single = (probed(traffic, speeds, hop_cycles=hop, trains=trains) for trains in (True, False))

    assert moved.run() == single.run()
    assert moved.hops() == single.hops()
    for color in range(len(traffic)):
        for x in range(SIZE):
            for y in range(SIZE):
                assert moved.arrivals(x, y, color) == single.arrivals(x, y, color)


def test_a_teardown_in_a_train_stops_every_router_that_it_passes() -> None:
    """Commands take effect router by router also where a stream would have gone through as one."""
    arrivals = []
    for trains in (True, False):
        probe = line(9, trains=trains)
        sent = [(i, False) for i in range(12)]
        probe.feed(0, 0, 0, [*sent[:6], (payload(TEARDOWN), True), *sent[6:]])
        probe.run()
        for x in range(10):
            stalled = [at for at, _, _, _, _, _, why in probe.held() if why == "teardown"]
            assert stalled == [x]
            probe.exit_teardown(x, 0, 0)
            probe.run()
        arrivals.append((probe.arrivals(9, 0, 0), probe.teardowns()))

    assert arrivals[0] == arrivals[1]
    assert [value for _, value, _ in arrivals[0][0]] == list(range(12))


def test_a_ring_of_routes_makes_no_endless_train() -> None:
    """A wavelet that goes in a circle goes on for ever, but looking for its train must end."""
    probe = NetworkProbe(3, 2)
    turns = {(0, 0): (SOUTH, EAST), (1, 0): (WEST, EAST), (2, 0): (WEST, SOUTH)}
    turns |= {(2, 1): (NORTH, WEST), (1, 1): (EAST, WEST), (0, 1): (EAST, NORTH)}
    for (x, y), (rx, tx) in turns.items():
        probe.configure(x, y, 0, rx, tx)
    port = probe.open_port(0, 0, 4, 0, True)

    probe.send(port, [(1, False)])
    probe.run(1000)

    assert 490 <= probe.hops() <= 500
