"""The core's routing against a model of it that knows no time, over random trees, switches, filters and speeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fabric_probe import ADVANCE, NOP, RAMP, RESET, STEP, NetworkProbe, payload, words
from hypothesis import given, settings
from hypothesis import strategies as st
from network_model import Command, Place, Router, Rule, Wavelet, inputs, send

SIZE = 4
POPS = ["no_pop", "always_pop", "pop_on_advance", "pop_on_advance_nop"]
commands = st.tuples(st.sampled_from([NOP, ADVANCE, ADVANCE, RESET]), st.booleans())
wavelets = st.one_of(
    st.builds(Wavelet, st.integers(0, 5 << 16)),
    st.builds(Wavelet, st.integers(32, 62), st.lists(commands, min_size=8, max_size=8).map(tuple)),
)
rules = st.one_of(
    st.none(),
    st.builds(Rule, st.just("range"), first=st.integers(0, 2), last=st.integers(1, 4)),
    st.integers(1, 6).flatmap(
        lambda size: st.builds(
            Rule,
            st.just("counter"),
            first=st.integers(0, size - 1),
            round=st.just(size),
            last=st.integers(0, 5),
        )
    ),
)


@dataclass(frozen=True)
class Flow:
    """One color: its source, the routers of its tree, and what is sent."""

    source: Place
    routers: dict[Place, Router]
    sent: list[Wavelet]


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """A random tree over the grid; positions of switches choose among each router's children and its ramp."""
    places = st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1))
    source = draw(places)
    children: dict[Place, list[int]] = {source: []}
    for _ in range(draw(st.integers(0, 12))):
        at = draw(st.sampled_from(sorted(children)))
        side = draw(st.sampled_from(sorted(STEP)))
        to = (at[0] + STEP[side][0], at[1] + STEP[side][1])
        if to not in children and 0 <= to[0] < SIZE and 0 <= to[1] < SIZE:
            children[to] = []
            children[at].append(side)
    routers = {}
    for at, sides in children.items():
        masks = st.sets(st.sampled_from([*sides, RAMP]), min_size=1).map(sum)
        positions = draw(st.lists(st.one_of(st.none(), masks, masks), max_size=3))
        routers[at] = Router(
            draw(masks), tuple(positions), draw(st.booleans()), draw(st.sampled_from(POPS)), rule=draw(rules)
        )
    return Flow(source, routers, draw(st.lists(wavelets, max_size=25)))


def bits(wavelet: Wavelet) -> tuple[int, bool]:
    """The wavelet as the machine has it."""
    if not wavelet.commands:
        return wavelet.data, False
    word = payload(noce=False, entry=wavelet.data)
    for place, (opcode, noce) in enumerate(wavelet.commands):
        for i, value in enumerate((opcode & 1, opcode >> 1, int(noce))):
            word |= value << (22 + 3 * place + i) % 30
    return word, True


def probed(traffic: list[Flow], speeds: list[tuple[int, int]], **timing: int) -> NetworkProbe:
    """The same traffic in the core, color by color; PEs read with queues of the given depths and intervals."""
    probe = NetworkProbe(SIZE, SIZE, **timing)
    for color, flow in enumerate(traffic):
        depth, every = speeds[color]
        for (x, y), rx in inputs(flow.routers, flow.source).items():
            router = flow.routers[x, y]
            positions = [None if tx is None else (-1, tx) for tx in router.positions]
            pop = POPS.index(router.pop)
            probe.configure(x, y, color, rx, router.tx, positions=positions, ring=router.ring, pop=pop)
            if router.rule and router.rule.kind == "range":
                low, high = router.rule.first, router.rule.last
                probe.set_filter(x, y, color, "range", minimum=low, maximum=high)
            elif router.rule:
                rule = router.rule
                probe.set_filter(
                    x, y, color, "counter", counter=rule.first, limit1=rule.round - 1, maximum=rule.last
                )
            probe.listen(x, y, color, depth=depth, every=every)
        probe.feed(*flow.source, color, [bits(wavelet) for wavelet in flow.sent])
    return probe


@settings(max_examples=150, deadline=None)
@given(
    traffic=st.lists(flows(), min_size=1, max_size=4),
    speeds=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=4, max_size=4),
    hop=st.integers(1, 3),
    ramp_out=st.integers(0, 2),
    buffer=st.integers(1, 5),
)
def test_everyone_gets_what_the_model_says(
    traffic: list[Flow], speeds: list[tuple[int, int]], hop: int, ramp_out: int, buffer: int
) -> None:
    """Timing, contention and slow readers may change when a wavelet arrives, never what arrives or in which order."""
    probe = probed(traffic, speeds, hop_cycles=hop, ramp_out_cycles=ramp_out, buffer_wavelets=buffer)

    probe.run()

    assert probe.failure() == ""
    assert probe.held() == []
    for color, flow in enumerate(traffic):
        routers = {at: replace(router, got=[]) for at, router in flow.routers.items()}
        for wavelet in flow.sent:
            send(routers, flow.source, wavelet)
        for (x, y), router in routers.items():
            assert words(probe, x, y, color) == [bits(wavelet) for wavelet in router.got]


def test_the_model_itself_pops_and_switches() -> None:
    """What the comparison rests on, by hand: one router with two positions that pops what moved it."""
    command: Command = (ADVANCE, False)
    first, second = Wavelet(40, (command,) * 8), Wavelet(1)
    routers = {
        (0, 0): Router(2, (RAMP,), pop="pop_on_advance"),
        (1, 0): Router(RAMP),
    }

    for wavelet in (first, second):
        send(routers, (0, 0), wavelet)

    assert routers[0, 0].got == [second]
    assert routers[1, 0].got == [Wavelet(40, (command,) * 7 + ((NOP, True),))]
