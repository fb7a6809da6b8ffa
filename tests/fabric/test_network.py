"""Routers, links and buffers: what a hop costs, who goes first, what waits, what is an error."""

from __future__ import annotations

from itertools import pairwise

import pytest
from fabric_probe import EAST, NORTH, RAMP, SOUTH, WEST, NetworkProbe, data, line
from hypothesis import given
from hypothesis import strategies as st

numbers = st.integers


@given(
    hops=numbers(0, 9), hop=numbers(1, 4), ramp_in=numbers(1, 4), ramp_out=numbers(0, 4), start=numbers(0, 50)
)
def test_an_idle_path_costs_both_ramps_and_its_hops(
    hops: int, hop: int, ramp_in: int, ramp_out: int, start: int
) -> None:
    """network.hpp promises this sum; every measured latency is fitted with it."""
    probe = line(hops, hop_cycles=hop, ramp_in_cycles=ramp_in, ramp_out_cycles=ramp_out)
    probe.feed(0, 0, 0, [(7, False)], start=start)

    probe.run()

    assert probe.arrivals(hops, 0, 0) == [(start + ramp_in + hops * hop + ramp_out, 7, False)]


@given(hops=numbers(0, 6), hop=numbers(1, 3), ramp_out=numbers(0, 3))
def test_a_stream_flows_at_one_wavelet_a_cycle(hops: int, hop: int, ramp_out: int) -> None:
    """A link carries a wavelet each cycle as long as buffers hold more than a hop's worth."""
    probe = line(hops, hop_cycles=hop, ramp_out_cycles=ramp_out)
    probe.stream(0, 0, 0, 100)

    probe.run()

    cycles = [cycle for cycle, _, _ in probe.arrivals(hops, 0, 0)]
    assert cycles == list(range(1 + hops * hop + ramp_out, 101 + hops * hop + ramp_out))


def crossing(order: list[int]) -> NetworkProbe:
    """Two streams on colors 0 and 1 that share the link between tiles 1 and 2 of a row of four."""
    probe = NetworkProbe(4, 1)
    routes = [
        (0, 0, RAMP, EAST),
        (1, 0, WEST, EAST),
        (2, 0, WEST, EAST),
        (3, 0, WEST, RAMP),
        (1, 1, RAMP, EAST),
        (2, 1, WEST, RAMP),
    ]
    for i in order:
        x, color, rx, tx = routes[i]
        probe.configure(x, 0, color, rx, tx)
    probe.listen(3, 0, 0)
    probe.listen(2, 0, 1)
    probe.stream(0, 0, 0, 200)
    probe.stream(1, 0, 1, 200)
    return probe


def test_two_streams_on_one_link_get_half_of_it_each() -> None:
    """A link takes one wavelet a cycle over all colors, and who waited longer goes first."""
    probe = crossing([0, 1, 2, 3, 4, 5])

    probe.run()

    for x, color in ((3, 0), (2, 1)):
        cycles = [cycle for cycle, _, _ in probe.arrivals(x, 0, color)][20:150]
        assert {after - before for before, after in pairwise(cycles)} == {2}


@given(order=st.permutations(range(6)))
def test_the_order_of_configuration_changes_no_cycle(order: list[int]) -> None:
    """Routers are done one after the other, and the result must not show in which order."""
    expected, probe = crossing([0, 1, 2, 3, 4, 5]), crossing(order)

    assert probe.run() == expected.run()
    for x, color in ((3, 0), (2, 1)):
        assert probe.arrivals(x, 0, color) == expected.arrivals(x, 0, color)


def test_three_streams_into_one_get_a_third_each() -> None:
    """Fairness holds between inputs of one color, too: a reduction's column must starve nobody."""
    probe = NetworkProbe(3, 3)
    for (x, y), tx in {(0, 1): EAST, (2, 1): WEST, (1, 0): SOUTH}.items():
        probe.configure(x, y, 5, RAMP, tx)
    probe.configure(1, 1, 5, WEST | EAST | NORTH, SOUTH)
    probe.configure(1, 2, 5, NORTH, RAMP)
    probe.listen(1, 2, 5)
    for i, (x, y) in enumerate([(0, 1), (2, 1), (1, 0)]):
        probe.feed(x, y, 5, [(i, False)] * 60)

    probe.run()

    got = data(probe, 1, 2, 5)
    assert len(got) == 180
    assert all(sorted(got[at : at + 3]) == [0, 1, 2] for at in range(30, 120, 3))


@given(depth=numbers(1, 6), every=numbers(1, 7), buffer=numbers(1, 5), hop=numbers(1, 3), hops=numbers(0, 4))
def test_backpressure_loses_nothing_and_keeps_the_order(
    depth: int, every: int, buffer: int, hop: int, hops: int
) -> None:
    """A slow reader slows the writer, hop by hop; wavelets are neither dropped nor passed."""
    probe = line(hops, hop_cycles=hop, buffer_wavelets=buffer)
    probe.listen(hops, 0, 0, depth=depth, every=every)
    probe.stream(0, 0, 0, 40)

    probe.run()

    assert data(probe, hops, 0, 0) == list(range(40))


def test_a_path_that_nobody_reads_fills_to_its_depth() -> None:
    """Depths can be seen by programs: queue, ramp and one buffer a router hold wavelets, the rest stays with the PE."""
    hops, depth, buffer = 3, 6, 4
    probe = line(hops, buffer_wavelets=buffer)
    probe.listen(hops, 0, 0, depth=depth, every=0)
    probe.stream(0, 0, 0, 100)

    probe.run()

    held = depth + 1 + (hops + 1) * buffer
    assert probe.arrived(hops, 0, 0) == depth
    assert probe.unsent() == 100 - held
    assert sum(count for _, _, _, _, count, _, _ in probe.held()) == held - depth
    assert (0, 0, 0, 4, buffer, EAST, "room") in probe.held()
    assert (hops, 0, 0, 5, 1, RAMP, "room") in probe.held()


def test_multicast_goes_when_every_side_has_room() -> None:
    """One slow branch holds the others, so that all see the same sequence without further buffers."""
    probe = NetworkProbe(3, 1)
    probe.configure(0, 0, 2, RAMP, EAST)
    probe.configure(1, 0, 2, WEST, EAST | RAMP)
    probe.configure(2, 0, 2, WEST, RAMP)
    probe.listen(1, 0, 2, depth=1, every=10)
    probe.listen(2, 0, 2)
    probe.stream(0, 0, 2, 30)

    probe.run()

    assert data(probe, 1, 0, 2) == data(probe, 2, 0, 2) == list(range(30))
    cycles = [cycle for cycle, _, _ in probe.arrivals(2, 0, 2)]
    assert all(after - before == 10 for before, after in pairwise(cycles[8:]))


@pytest.mark.parametrize(
    ("side", "name"), [(WEST, "west"), (EAST, "east"), (SOUTH, "south"), (NORTH, "north")]
)
def test_a_wavelet_that_leaves_the_fabric_is_an_error(side: int, name: str) -> None:
    """No program means to lose data over the edge: say which tile and color did."""
    probe = NetworkProbe(1, 1)
    probe.configure(0, 0, 9, RAMP, side)
    probe.feed(0, 0, 9, [(1, False)])

    probe.run()

    assert f"color 9 leaves the fabric at the {name} of tile (0, 0)" in probe.failure()


def test_a_wavelet_that_leaves_the_program_is_held_by_the_first_router_outside() -> None:
    """The wafer goes on beyond a program: public programs send past their last tile, and the rest of them runs on."""
    probe = NetworkProbe(3, 1)
    probe.set_program(0, 0, 2, 1)
    probe.configure(0, 0, 4, RAMP, EAST)
    probe.configure(1, 0, 4, WEST, EAST)
    probe.feed(0, 0, 4, [(1, False), (2, False)])

    probe.run()

    assert probe.failure() == ""
    assert probe.held() == [(2, 0, 4, 0, 2, 0, "outside")]


def test_a_router_outside_of_the_program_holds_no_more_than_its_buffer() -> None:
    """Backpressure works there as elsewhere: a sender that goes on stalls, and nothing is lost."""
    probe = NetworkProbe(2, 1, buffer_wavelets=4)
    probe.set_program(0, 0, 1, 1)
    probe.configure(0, 0, 4, RAMP, EAST)
    probe.stream(0, 0, 4, 100)

    probe.run()

    assert probe.held() == [(0, 0, 4, 4, 4, EAST, "room"), (1, 0, 4, 0, 4, 0, "outside")]
    assert probe.unsent() == 92


def test_at_the_edge_of_the_fabric_a_program_holds_its_wavelets_itself() -> None:
    """Where a program lies on the fabric must not decide whether it runs: at the edge, nobody takes the wavelet either."""
    probe = NetworkProbe(2, 1)
    probe.set_program(0, 0, 2, 1)
    probe.configure(0, 0, 4, RAMP, EAST)
    probe.configure(1, 0, 4, WEST, EAST)
    probe.feed(0, 0, 4, [(1, False)])

    probe.run()

    assert probe.failure() == ""
    assert probe.held() == [(1, 0, 4, 0, 1, EAST, "edge")]


def test_inside_the_program_a_wavelet_without_a_route_stays_an_error() -> None:
    """There the program has a hole that its author did not mean."""
    probe = NetworkProbe(4, 1)
    probe.set_program(0, 0, 3, 1)
    probe.configure(0, 0, 4, RAMP, EAST)
    probe.feed(0, 0, 4, [(1, False)])

    probe.run()

    assert "color 4 is at tile (1, 0)" in probe.failure()


def test_a_wavelet_without_a_route_is_an_error_at_that_tile() -> None:
    """The tile that lacks the route is named, not the one that sent the wavelet there."""
    probe = NetworkProbe(3, 1)
    probe.configure(0, 0, 4, RAMP, EAST)
    probe.configure(1, 0, 4, WEST, EAST)
    probe.feed(0, 0, 4, [(1, False)])

    probe.run()

    assert "color 4 is at tile (2, 0)" in probe.failure()
    assert "no route" in probe.failure()


def test_a_ce_that_sends_on_a_color_without_route_is_an_error() -> None:
    """The most common mistake: a forgotten @set_color_config on the sender."""
    probe = NetworkProbe(1, 1)
    probe.feed(0, 0, 4, [(1, False)])

    probe.run()

    assert "color 4 is at tile (0, 0)" in probe.failure()


def test_a_tile_with_one_color_takes_less_than_300_bytes() -> None:
    """A whole wafer's broadcast must fit beside everything else; tiles without a route take almost nothing."""
    width, height = 400, 300
    probe = NetworkProbe(width, height)
    idle = probe.memory_bytes()
    for y in range(0, height, 10):
        for x in range(width):
            probe.configure(x, y, 0, WEST if x else RAMP, (EAST if x + 1 < width else 0) | RAMP)
            probe.listen(x, y, 0)
        probe.feed(0, y, 0, [(y, False)])

    probe.run()

    assert data(probe, width - 1, 290, 0) == [290]
    assert idle / (width * height) < 8
    assert (probe.memory_bytes() - idle) / (width * height / 10) < 2 * 300, "vectors grow by doubling"
