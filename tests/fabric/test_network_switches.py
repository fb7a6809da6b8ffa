"""What changes a route while it runs: switches, teardown, filters, color swap, registers; and host ports."""

from __future__ import annotations

from fabric_probe import (
    ADVANCE,
    ALWAYS_POP,
    EAST,
    NOP,
    NORTH,
    POP_ON_ADVANCE,
    POP_ON_ADVANCE_NOP,
    RAMP,
    RESET,
    SOUTH,
    TEARDOWN,
    WEST,
    NetworkProbe,
    data,
    line,
    payload,
    words,
)


def star(**route: object) -> NetworkProbe:
    """A PE in the middle of 3 x 3 that sends; `route` says how it switches between its four neighbours."""
    probe = NetworkProbe(3, 3)
    probe.configure(1, 1, 0, RAMP, NORTH, **route)
    for (x, y), rx in {(1, 0): SOUTH, (0, 1): EAST, (2, 1): WEST, (1, 2): NORTH}.items():
        probe.configure(x, y, 0, rx, RAMP)
        probe.listen(x, y, 0)
    return probe


def received(probe: NetworkProbe) -> list[list[int]]:
    """Data that the four neighbours got: north, west, east, south."""
    return [data(probe, x, y, 0) for x, y in ((1, 0), (0, 1), (2, 1), (1, 2))]


FOUR_WAYS = [(-1, WEST), (-1, EAST), (-1, SOUTH)]


def test_a_control_wavelet_goes_by_the_old_position_and_leaves_the_next() -> None:
    """ "Topic 7" of the public examples: the router moves on only behind the control wavelet."""
    probe = star(positions=FOUR_WAYS, position=1, ring=True)
    advance = payload(ADVANCE, noce=False, entry=40, data=9)
    probe.feed(
        1, 1, 0, [(1, False), (advance, True), (2, False), (advance, True), (advance, True), (3, False)]
    )

    probe.run()

    assert received(probe) == [[3], [1, advance], [2, advance], [advance]]


def test_a_switch_without_ring_stays_at_its_last_position() -> None:
    """Without ring mode further commands have no effect once the sequence ends, here before the invalid position 2."""
    probe = star(positions=[(-1, WEST), None, (-1, SOUTH)])
    advance = (payload(ADVANCE), True)
    probe.feed(1, 1, 0, [(1, False), advance, (2, False), advance, (3, False)])

    probe.run()

    assert received(probe) == [[1], [2, 3], [], []]


def test_reset_goes_back_to_position_0() -> None:
    """SWITCH_RST, from wherever the switch is."""
    probe = star(positions=FOUR_WAYS)
    advance = (payload(ADVANCE), True)
    probe.feed(1, 1, 0, [advance, advance, (1, False), (payload(RESET), True), (2, False)])

    probe.run()

    assert received(probe) == [[2], [], [1], []]


def test_positions_add_up() -> None:
    """Input and output are switched one at a time: after "tx east" and "rx ramp" the route is ramp to east."""
    probe = NetworkProbe(3, 1)
    probe.configure(0, 0, 0, RAMP, EAST)
    probe.configure(1, 0, 0, WEST, EAST | RAMP, positions=[(-1, EAST), (RAMP, -1)])
    probe.configure(2, 0, 0, WEST, RAMP)
    probe.listen(1, 0, 0)
    probe.listen(2, 0, 0)
    probe.feed(1, 0, 0, [(8, False)])
    advance = (payload(ADVANCE), True)
    probe.feed(0, 0, 0, [(1, False), advance, (2, False), advance])

    probe.run()

    assert data(probe, 1, 0, 0) == [1]
    assert data(probe, 2, 0, 0) == [1, 2, 8]


def test_a_color_without_switches_ignores_commands() -> None:
    """Routers on the way need no configuration for the switches of others."""
    probe = line(3)
    probe.feed(0, 0, 0, [(payload(ADVANCE, noce=False), True), (5, False)])

    probe.run()

    assert words(probe, 3, 0, 0) == [(payload(ADVANCE, noce=False), True), (5, False)]


def test_noce_keeps_a_control_wavelet_from_the_ce() -> None:
    """ce_ignore of <control>: only the leading command's bit counts, and the wavelet still goes on to others."""
    probe = NetworkProbe(2, 1)
    probe.configure(0, 0, 0, RAMP, RAMP | EAST)
    probe.configure(1, 0, 0, WEST, RAMP)
    probe.listen(0, 0, 0)
    probe.listen(1, 0, 0)
    probe.feed(0, 0, 0, [(payload(NOP), True), (payload(NOP, noce=False), True), (3, False)])

    probe.run()

    for x in (0, 1):
        assert words(probe, x, 0, 0) == [(payload(NOP, noce=False), True), (3, False)]


def chain(pops: list[int], control: int) -> list[int]:
    """Sends `control` through one router for each of `pops`, all with a position 1: what each of them was sent."""
    length = len(pops)
    probe = NetworkProbe(length + 1, 1)
    for x, pop in enumerate(pops):
        sides = EAST | RAMP
        probe.configure(x, 0, 0, WEST if x else RAMP, sides, positions=[(-1, sides)], pop=pop)
        probe.listen(x, 0, 0)
    probe.configure(length, 0, 0, WEST, RAMP)
    probe.listen(length, 0, 0)
    probe.feed(0, 0, 0, [(control, True)])
    probe.run()
    return [value for x in range(length) for value in data(probe, x, 0, 0)]


def test_always_pop_hands_each_router_its_own_command() -> None:
    """Eight commands for eight routers; behind them come NOPs with NOCE, as the example allreduce shows."""
    commands = [ADVANCE, RESET, NOP, ADVANCE, NOP, NOP, RESET, ADVANCE]

    got = chain([ALWAYS_POP] * 3, payload(*commands, noce=False))

    assert got == [payload(*commands, noce=False)] + [shifted(commands[passed:], passed) for passed in (1, 2)]


def shifted(commands: list[int], nops: int) -> int:
    """A payload of commands for the CE, then `nops` NOPs that are not, from bits that wrap at bit 30."""
    bits = 31 << 16
    three = [*commands, *[NOP | 4] * nops]
    for place, command in enumerate(three):
        for i in range(3):
            bits |= (command >> i & 1) << (22 + 3 * place + i) % 30
    return bits


def test_a_popped_teardown_is_the_published_word() -> None:
    """0x9df9249 becomes 0x91f9249: a comment of the public example allreduce."""
    assert payload(TEARDOWN) == 0x9DF9249
    probe = NetworkProbe(2, 1)
    probe.configure(0, 0, 0, RAMP, EAST, pop=ALWAYS_POP)
    probe.configure(1, 0, 0, WEST, EAST)
    port = probe.open_port(1, 0, 1, 0, False)
    probe.feed(0, 0, 0, [(0x9DF9249, True)])

    probe.run()

    assert probe.receive(port) == [(0x91F9249, True)]


def test_pop_on_advance_pops_only_what_moved_the_switch() -> None:
    """So two ADVs for two neighbours reach them one each, and a NOP or a reset is for everybody."""
    two, reset, nop = (payload(*commands, noce=False) for commands in ((ADVANCE, ADVANCE), (RESET,), (NOP,)))

    assert chain([POP_ON_ADVANCE] * 2, two) == [two, shifted([ADVANCE, *[NOP] * 6], 1)]
    assert chain([POP_ON_ADVANCE] * 2, reset) == [reset, reset]
    assert chain([POP_ON_ADVANCE] * 2, nop) == [nop, nop]
    assert chain([POP_ON_ADVANCE_NOP] * 2, nop) == [nop, shifted([NOP] * 7, 1)]


def test_teardown_stalls_a_color_until_it_is_left() -> None:
    """The wavelet itself passes; what is behind it waits, and the CE is told once."""
    probe = NetworkProbe(2, 1)
    probe.configure(0, 0, 3, RAMP, EAST)
    probe.configure(1, 0, 3, WEST, RAMP)
    probe.listen(1, 0, 3)
    probe.feed(0, 0, 3, [(1, False), (payload(TEARDOWN, noce=False), True), (2, False)])

    probe.run()

    assert data(probe, 1, 0, 3) == [1, payload(TEARDOWN, noce=False)]
    assert [(x, y, color) for _, x, y, color in probe.teardowns()] == [(0, 0, 3), (1, 0, 3)]
    assert probe.held() == [(0, 0, 3, 4, 1, 0, "teardown")]

    probe.exit_teardown(0, 0, 3)
    probe.run()
    assert probe.held() == [(1, 0, 3, 0, 1, 0, "teardown")]

    probe.exit_teardown(1, 0, 3)
    probe.run()
    assert data(probe, 1, 0, 3)[2:] == [2]


def test_a_color_can_start_in_teardown() -> None:
    """`.teardown = true`: no traffic until the program leaves it, and no handler runs for it."""
    probe = NetworkProbe(1, 1)
    probe.configure(0, 0, 3, RAMP, RAMP, teardown=True)
    probe.listen(0, 0, 3)
    probe.feed(0, 0, 3, [(1, False)])
    probe.run()
    assert (data(probe, 0, 0, 3), probe.teardowns()) == ([], [])

    probe.write_route(0, 0, 3, probe.read_route(0, 0, 3) ^ 1 << 14)
    probe.run()

    assert data(probe, 0, 0, 3) == [1]


def filtered(values: list[int], controls: set[int] = frozenset(), **filter: object) -> list[int]:  # type: ignore[assignment]
    """What a filter on a PE's ramp lets through; `controls` are the places of control wavelets."""
    probe = line(1)
    probe.set_filter(1, 0, 0, **filter)
    probe.feed(0, 0, 0, [(value, place in controls) for place, value in enumerate(values)])
    probe.run()
    return data(probe, 1, 0, 0)


def test_a_range_filter_looks_at_the_index() -> None:
    """The upper 16 bits must be within the range; control wavelets always pass."""
    values = [index << 16 | 7 for index in range(8)]
    assert filtered(values, kind="range", minimum=2, maximum=4) == values[2:5]
    assert filtered([0, *values], {0}, kind="range", minimum=2, maximum=4) == [0, *values[2:5]]


def test_a_counter_filter_passes_the_first_of_each_round() -> None:
    """Of limit1 + 1 wavelets the first maximum + 1 pass; the first round may begin in the middle."""
    values = list(range(20))
    assert filtered(values, kind="counter", limit1=4, maximum=1) == [0, 1, 5, 6, 10, 11, 15, 16]
    assert filtered(values, kind="counter", limit1=4, maximum=1, counter=2) == [3, 4, 8, 9, 13, 14, 18, 19]


def test_a_counter_filter_can_pass_control_wavelets_only() -> None:
    """filter_control: what is no control wavelet at the maximum is rejected."""
    values = [payload(NOP, noce=False, data=i) for i in range(6)]
    got = filtered(
        values, {2, 3}, kind="counter", limit1=9, maximum=2, count_control=True, filter_control=True
    )
    assert got == values[2:3]


def test_a_sparse_counter_filter_takes_its_second_limit_once() -> None:
    """After limit1 comes limit2, and after that nothing is filtered any more."""
    got = filtered(list(range(12)), kind="sparse_counter", limit1=3, limit2=4, maximum=0)
    assert got == [0, 4, 9, 10, 11]


def test_a_filtered_wavelet_needs_no_room_at_the_ce() -> None:
    """A PE that is only passed by must not hold the others up."""
    probe = line(2)
    probe.configure(1, 0, 0, WEST, EAST | RAMP)
    probe.set_filter(1, 0, 0, "range", minimum=9, maximum=9)
    probe.listen(1, 0, 0, depth=1, every=0)
    probe.stream(0, 0, 0, 50)

    probe.run()

    assert data(probe, 2, 0, 0) == list(range(50))


def test_color_swap_alternates_two_colors_along_a_row() -> None:
    """ "Topic 14": what enters from west on color 0 is received on color 1, and the other way round."""
    probe = NetworkProbe(4, 1, color_swap=True)
    for x in range(4):
        for color in (0, 1):
            tx = RAMP | (EAST if x < 3 else 0)
            probe.configure(x, 0, color, WEST if x else RAMP, tx, swap_x=True)
            probe.listen(x, 0, color)
    probe.feed(0, 0, 1, [(5, False)])

    probe.run()

    assert [(data(probe, x, 0, 0), data(probe, x, 0, 1)) for x in range(4)] == [([], [5]), ([5], [])] * 2


def test_a_swap_of_one_color_receives_on_both() -> None:
    """With only color 3 swapping, color 2 from the side is received on colors 2 and 3."""
    probe = NetworkProbe(2, 1, color_swap=True)
    probe.configure(0, 0, 2, RAMP, EAST)
    probe.configure(1, 0, 2, WEST, RAMP)
    probe.configure(1, 0, 3, WEST, RAMP, swap_x=True)
    for color in (2, 3):
        probe.listen(1, 0, color)
    probe.stream(0, 0, 2, 20)

    probe.run()

    assert data(probe, 1, 0, 2) == data(probe, 1, 0, 3) == list(range(20))


def test_a_ce_whose_color_another_one_takes_is_told_of_room() -> None:
    """A swap of both pairs of sides receives from the ramp too: room is that of the color that takes the wavelets."""
    probe = NetworkProbe(2, 1, color_swap=True, buffer_wavelets=1)
    probe.configure(0, 0, 1, RAMP, EAST, swap_x=True, swap_y=True)
    probe.configure(1, 0, 1, WEST, RAMP)
    probe.listen(1, 0, 1)
    probe.stream(0, 0, 0, 20)

    probe.run()

    assert probe.unsent() == 0
    assert data(probe, 1, 0, 1) == list(range(20))


def test_registers_show_the_route_bit_for_bit() -> None:
    """The layouts are those that the public example spmv-hypersparse reads and writes."""
    probe = NetworkProbe(2, 2, color_swap=True)
    probe.configure(
        0, 0, 6, SOUTH, RAMP | NORTH, positions=[(-1, NORTH), (RAMP, -1)], pop=POP_ON_ADVANCE, ring=True
    )

    assert probe.read_route(0, 0, 6) == RAMP | NORTH | SOUTH << 5 | 2 << 12
    assert probe.read_switch(0, 0, 6) == 3 | (4 | 8) << 4 | 5 << 8 | 1 << 12
    assert probe.read_switch(0, 0, 7) == 0x555
    for value in (0, 0xFFFF, 0x0A5A):
        probe.write_route(0, 0, 6, value)
        assert probe.read_route(0, 0, 6) == value
    for value in (0x7C0D, 0x1D54, 0x2888):
        probe.write_switch(0, 0, 6, value)
        assert probe.read_switch(0, 0, 6) == value


def test_writing_a_register_changes_the_live_route() -> None:
    """A program may redirect a color without a control wavelet: by the route, or by the switch's position."""
    for write in ("route", "switch"):
        probe = star(positions=FOUR_WAYS)
        probe.feed(1, 1, 0, [(1, False)])
        probe.run()
        if write == "route":
            probe.write_route(1, 1, 0, SOUTH | RAMP << 5)
        else:
            probe.write_switch(1, 1, 0, probe.read_switch(1, 1, 0) | 3 << 13)
        port = probe.open_port(1, 1, 4, 0, True)
        probe.send(port, [(2, False)])
        probe.run()

        assert received(probe) == [[1], [], [], [2]]


def test_a_wavelet_waits_for_the_switch_that_lets_it_in() -> None:
    """Inputs that the current position does not take from are no error: another wavelet may switch to them."""
    probe = line(1)
    probe.configure(1, 0, 0, NORTH, RAMP)
    probe.feed(0, 0, 0, [(1, False)])
    probe.run()
    assert probe.held() == [(1, 0, 0, 0, 1, 0, "switch")]

    probe.write_route(1, 0, 0, RAMP | WEST << 5)
    probe.run()

    assert data(probe, 1, 0, 0) == [1]


def test_words_go_in_and_out_by_ports_at_the_edge() -> None:
    """A port is the link at that side, so routes say where its words go."""
    probe = NetworkProbe(3, 1)
    for x in range(3):
        probe.configure(x, 0, 0, WEST, EAST)
    into, out = probe.open_port(0, 0, 0, 0, True), probe.open_port(2, 0, 1, 0, False)
    sent = [(i, i % 5 == 0) for i in range(50)]
    sent = [(payload(NOP) if control else value, control) for value, control in sent]

    probe.send(into, sent)
    assert probe.pending(into) == 50
    probe.run()

    assert probe.pending(into) == 0
    assert probe.receive(out) == sent


def test_a_port_on_the_ramp_is_beside_the_ce() -> None:
    """The host's words for a PE reach the CE, the CE's words on the color reach the host: both at one router."""
    probe = NetworkProbe(1, 1)
    into, out = probe.open_port(0, 0, 4, 7, True), probe.open_port(0, 0, 4, 7, False)
    probe.listen(0, 0, 7, depth=2, every=3)
    probe.stream(0, 0, 7, 20)

    probe.send(into, [(100 + i, False) for i in range(30)])
    probe.run()

    assert data(probe, 0, 0, 7) == list(range(100, 130))
    assert probe.receive(out) == [(i, False) for i in range(20)]
