"""The machine: wavelets between PEs, microthreads, queues, FIFOs, streams of the host, diagnosis, registers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
from fabric_programs import (
    EASTWARD,
    Code,
    Pe,
    activate,
    array,
    dest,
    dsd,
    fabin,
    fabout,
    fifo,
    machine,
    main_task,
    mem,
    pointer,
    program,
    scalar,
    src1,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.artifact import _image as image
from openwafer.artifact import _pe_abi as abi
from openwafer.base import InputError
from openwafer.fabric import Machine, TraceKind

OUT = (image.Queue("output", 2, 1),)
IN = (image.Queue("input", 3, 1),)
Arch = image.Architecture


def sender(
    code: Code, count: int, operation: str = "mov32", *, memory: bytes = b"", **settings: Any
) -> image.Program:
    """A PE that sends `count` elements from address 0 on color 1 through output queue 2."""

    def main(pe: Pe) -> Iterator[None]:
        simd = settings.pop("simd", 0)
        out = fabout(2, count, 1, simd=simd)
        yield from pe.vector(operation, dsd(out), dsd(mem(0, count)), location=1, **settings)

    return program(code.add(main), memory, tasks=(main_task(),), queues=OUT)


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 60),
    asynchronous=st.booleans(),
    architecture=st.sampled_from(["wse2", "wse3"]),
    timing=st.sampled_from(["sim", "silicon", "functional"]),
)
def test_what_one_pe_sends_another_receives(
    count: int, asynchronous: bool, architecture: Arch, timing: str
) -> None:
    """Whatever the length and the timing: the same words in the same order, then the completion task."""

    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector(
            "mov32",
            dsd(mem(0, count)),
            dsd(fabin(3, count, 1)),
            asynchronous=asynchronous,
            end=activate(9),
        )

    def done(pe: Pe) -> None:
        pe.store(3000, pe.load(4 * (count - 1)))

    values = np.arange(1, count + 1, dtype=np.uint32) * 3
    code = Code()
    first = sender(code, count, memory=values.tobytes(), asynchronous=asynchronous)
    tasks = (main_task(), image.Task(kind="local", id=9, entry=1, name="done"))
    second = program(code.add(main, done), tasks=tasks, queues=IN)
    loaded = machine(code, [first, second], architecture=architecture, routes=EASTWARD, timing=timing)
    outcome = loaded.run()

    assert not loaded.failure
    assert outcome.idle
    assert not outcome.stalled
    np.testing.assert_array_equal(array(loaded, 1, 0, count, np.uint32), values)
    assert array(loaded, 1, 3000, 1, np.uint32)[0] == values[-1]


def test_a_stream_takes_one_cycle_a_word() -> None:
    """Link, ramp, queues and both operations carry a wavelet a cycle: 100 words more are 100 cycles more."""
    ends = []
    for count in (100, 200):

        def main(pe: Pe, count: int = count) -> Iterator[None]:
            yield from pe.vector("mov32", dsd(mem(0, count)), dsd(fabin(3, count, 1)))

        code = Code()
        second = program(code.add(main), tasks=(main_task(),), queues=IN)
        loaded = machine(code, [sender(code, count), second], routes=EASTWARD)
        loaded.run()
        ends.append(loaded.cycle)

    assert ends[1] - ends[0] == 100


def test_two_halves_travel_in_one_wavelet_in_simd_mode() -> None:
    """simd_32 packs two 16-bit values: half as many wavelets, the same values; an odd rest goes alone."""

    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov16", dsd(mem(0, 7)), dsd(fabin(3, 7, 1, simd=1)))

    values = np.arange(10, 17, dtype=np.uint16)
    code = Code()
    second = program(code.add(main), tasks=(main_task(),), queues=IN)
    loaded = machine(
        code, [sender(code, 7, "mov16", memory=values.tobytes(), simd=1), second], routes=EASTWARD
    )
    loaded.run()

    np.testing.assert_array_equal(array(loaded, 1, 0, 7, np.uint16), values)
    assert loaded.statistics(0, 0)["wavelets_out"] == 4


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
@pytest.mark.parametrize("queue", range(8))
def test_a_producer_stalls_at_exactly_the_published_depths(architecture: Arch, queue: int) -> None:
    """Nobody reads: what fits are both queues, a buffer in each router, and the ramp; one word more stalls."""

    def idle(pe: Pe) -> None:
        pe.store(0, 1)

    outcomes = {}
    for more in (0, 1):
        code = Code()
        first = sender(code, 1)
        second = program(code.add(idle), queues=(image.Queue("input", queue, 1),))
        loaded = machine(code, [first, second], architecture=architecture, routes=EASTWARD)
        table = loaded.timing
        fits = (
            table.entries["queues.output_depth"].values[2]
            + 2 * table["network.buffer_wavelets"]
            + table["network.ramp_out_cycles"]
            + table.entries["queues.input_depth"].values[queue]
        )
        code = Code()
        second = program(code.add(idle), queues=(image.Queue("input", queue, 1),))
        first = sender(code, int(fits) + more)
        loaded = machine(code, [second, first][::-1], architecture=architecture, routes=EASTWARD)
        outcomes[more] = (loaded.run(), loaded.diagnose())

    depth = int(table.entries["queues.input_depth"].values[queue])
    assert "task main" not in outcomes[0][1]
    assert outcomes[1][0].stalled
    diagnosis = outcomes[1][1]
    assert (
        "task main: @mov32 at program.csl:7:3, 1 elements to go, waits: output queue 2 is full (color 1"
        in diagnosis
    )
    assert f"input queue {queue} (color 1) holds {depth} of {depth} wavelets" in diagnosis


def test_entering_a_microthread_twice_names_both_operations() -> None:
    """Both asynchronous operations go to output queue 2, and so to one microthread."""

    def main(pe: Pe) -> Iterator[None]:
        for location in (1, 2):
            yield from pe.vector(
                "mov32", dsd(fabout(2, 50, 1)), dsd(mem(0, 50)), asynchronous=True, location=location
            )

    code = Code()
    second = program(code.add(lambda pe: None), queues=IN)
    loaded = machine(
        code, [program(code.add(main), tasks=(main_task(),), queues=OUT), second], routes=EASTWARD
    )

    assert loaded.run().failed
    assert loaded.failure.startswith("program.csl:9:5: PE (0, 0), task main")
    assert (
        "re-entry of microthread 2: @mov32 begins while @mov32 at program.csl:7:3 still uses it"
        in loaded.failure
    )


@pytest.mark.parametrize("direction", ["input", "output"])
def test_a_queue_of_wse3_must_be_initialised(direction: str) -> None:
    """On WSE-2 a DSD binds its input queue; on WSE-3 only @initialize_queue does."""

    def main(pe: Pe) -> Iterator[None]:
        if direction == "input":
            yield from pe.vector("mov32", dsd(mem(0, 1)), dsd(fabin(3, 1, 1)), location=1)
        else:
            yield from pe.vector("mov32", dsd(fabout(2, 1, 1)), scalar(1), location=1)

    code = Code()
    loaded = machine(code, [program(code.add(main), tasks=(main_task(),))])

    assert loaded.run().failed
    assert f"{direction} queue" in loaded.failure
    assert "was never initialised" in loaded.failure


@pytest.mark.parametrize("terminates", [False, True])
def test_a_control_wavelet_ends_an_operation_that_has_an_action_for_it(terminates: bool) -> None:
    """on_control: the operation ends early; `terminate` keeps its own action at the end, `activate` replaces it.

    The control wavelet stays in the queue: an operation that follows takes it as its first element.
    """

    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov32", dsd(fabout(2, 3, 1)), dsd(mem(0, 3)))
        flag = abi.DescriptorFlag.CONTROL
        yield from pe.vector("mov32", dsd(fabout(2, 1, 1, flags=flag)), scalar(0x1F0000))

    def receive(pe: Pe) -> Iterator[None]:
        yield from pe.vector(
            "mov32",
            dsd(mem(0, 0x7FFF)),
            dsd(fabin(3, 0x7FFF, 1)),
            asynchronous=True,
            control=(abi.Action.TERMINATE, abi.Target.TASK, 0) if terminates else activate(9),
            end=activate(9) if terminates else activate(10),
        )

    def ended(pe: Pe) -> Iterator[None]:
        pe.store(100, 1)
        yield from pe.vector("mov32", dsd(mem(104, 1)), dsd(fabin(3, 1, 1)))

    code = Code()
    first = program(
        code.add(main), np.array([4, 5, 6], np.uint32).tobytes(), tasks=(main_task(),), queues=OUT
    )
    tasks = (main_task(), image.Task(kind="local", id=9, entry=1, name="ended"))
    loaded = machine(
        code, [first, program(code.add(receive, ended), tasks=tasks, queues=IN)], routes=EASTWARD
    )
    loaded.run()

    assert not loaded.failure
    assert array(loaded, 1, 0, 4, np.uint32).tolist() == [4, 5, 6, 0]
    assert array(loaded, 1, 100, 2, np.uint32).tolist() == [1, 0x1F0000]
    assert loaded.diagnose() == ""


def test_a_fifo_couples_two_microthreads() -> None:
    """One receives into it, one sends out of it; both wait for the other where it is full or empty."""

    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov32", dsd(fifo(0)), dsd(fabin(3, 40, 1)), asynchronous=True, thread=1)
        yield from pe.vector("mov32", dsd(mem(100, 40)), dsd(fifo(0)), asynchronous=True, thread=2)

    values = np.arange(40, dtype=np.uint32)
    code = Code()
    second = program(
        code.add(main), tasks=(main_task(),), queues=IN, fifos=(image.Fifo(0, 1000, 12, None, None),)
    )
    loaded = machine(code, [sender(code, 40, memory=values.tobytes()), second], routes=EASTWARD)
    loaded.run()

    assert not loaded.failure
    np.testing.assert_array_equal(array(loaded, 1, 100, 40, np.uint32), values[:40])


def test_a_fifo_activates_tasks_after_a_shortage_ends() -> None:
    """activate_push only after the FIFO was found empty, activate_pop only after it was found full."""

    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov16", dsd(fifo(0)), dsd(mem(0, 2)))  # room for both: nothing happens
        yield from pe.vector("mov16", dsd(fifo(0)), dsd(mem(0, 4)))  # two fit, then it is full
        pe.store(100, pe.load(100) + 1)
        pe.task(activate(10))

    def on_pop(pe: Pe) -> None:
        pe.store(104, pe.load(104) + 1)

    def read(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov16", dsd(mem(200, 3)), dsd(fifo(0)))

    code = Code()
    tasks = (
        main_task(),
        image.Task(kind="local", id=9, entry=1, name="on_pop"),
        image.Task(kind="local", id=10, entry=2, name="read"),
    )
    made = program(
        code.add(main, on_pop, read),
        np.arange(1, 5, dtype=np.uint16).tobytes(),
        tasks=tasks,
        fifos=(image.Fifo(0, 1000, 8, None, 9),),
    )
    loaded = machine(code, [made])
    loaded.run()

    assert not loaded.failure
    assert array(loaded, 0, 100, 2, np.uint32).tolist() == [1, 1]
    assert array(loaded, 0, 200, 3, np.uint16).tolist() == [1, 2, 1]


def test_registers_keep_descriptors_and_addresses() -> None:
    """save_address: each operation goes on where the one before it ended; others begin anew."""

    def main(pe: Pe) -> Iterator[None]:
        save = abi.DescriptorFlag.SAVE_ADDRESS
        pe.load_dsr(abi.OperandKind.DSR_DEST, 2, mem(100, 4, flags=save))
        pe.load_dsr(abi.OperandKind.DSR_SRC1, 5, mem(0, 4))
        for _ in range(2):
            yield from pe.vector("mov16", dest(2), src1(5))

    code = Code()
    memory = np.arange(1, 5, dtype=np.uint16).tobytes()
    loaded = machine(code, [program(code.add(main), memory, tasks=(main_task(),))])
    loaded.run()

    assert array(loaded, 0, 100, 9, np.uint16).tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 0]


def test_a_register_that_was_never_loaded_is_an_error() -> None:
    """Whatever it holds on the machine, the program did not put it there."""

    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov16", dest(2), scalar(1), location=1)

    code = Code()
    loaded = machine(code, [program(code.add(main), tasks=(main_task(),))])
    loaded.run()

    assert "uses dsr_dest 2, which holds nothing" in loaded.failure


def test_map_walks_its_operands_until_one_ends() -> None:
    """The program computes each element; a fabric operand makes it wait as often as it must."""

    def main(pe: Pe) -> Iterator[None]:
        operands = (dsd(fabin(3, 5, 1)), scalar(10), pointer(500), dsd(mem(100, 9)))
        yield from pe.map_begin(operands, ("i32", "i32", "i32", "i32"), (False, False, False, True))
        while True:
            yield from pe.map_next()
            if not pe.more:
                return
            pe.call("ow_map_write", 3, sum(pe.call("ow_map_read", i) for i in range(3)))

    values = np.arange(5, dtype=np.uint32)
    code = Code()
    memory = bytes(500) + np.array([1000], np.uint32).tobytes()
    second = program(code.add(main), memory, tasks=(main_task(),), queues=IN)
    loaded = machine(code, [sender(code, 5, memory=values.tobytes()), second], routes=EASTWARD)
    loaded.run()

    assert not loaded.failure
    assert array(loaded, 1, 100, 6, np.uint32).tolist() == [1010, 1011, 1012, 1013, 1014, 0]


@pytest.mark.parametrize(
    ("to", "told"),
    [
        (
            "EAST",
            "router (1, 0): 3 wavelets of color 1 from west wait: this place is outside of the program's rectangle and has "
            "no route for them; end the route on the tile before it\n",
        ),
        ("NORTH", "router (0, -1): 3 wavelets of color 1 from south wait: this place is outside of"),
    ],
)
def test_what_leaves_the_program_is_held_and_the_diagnosis_names_it(to: image.Direction, told: str) -> None:
    """The program goes on, as on a wafer; who wonders where the words went reads it in coordinates of the program."""
    code = Code()
    loaded = machine(code, [sender(code, 3)], routes=({1: image.Route(rx=("RAMP",), tx=(to,))},))

    outcome = loaded.run()

    assert outcome.stalled
    assert not outcome.failed
    assert loaded.diagnose().startswith(told)


@pytest.mark.parametrize(("architecture", "most"), [("wse2", 14), ("wse3", 16)])
def test_a_stream_through_a_pe_holds_what_its_queues_hold(architecture: Arch, most: int) -> None:
    """Example pipeline-01: 14 words fit into a PE of WSE-2 before the host takes any; the 15th waits for it."""

    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov32", dsd(fabout(3, 0x7FFF, 5)), dsd(fabin(2, 0x7FFF, 4)), asynchronous=True)

    code = Code()
    queues = (image.Queue("input", 2, 4), image.Queue("output", 3, 5))
    loaded = machine(
        code,
        [program(code.add(main), tasks=(main_task(),), queues=queues)],
        architecture=architecture,
        streams={4: "in", 5: "out"},
    )
    words = np.arange(most + 3, dtype=np.uint32)
    loaded.send(4, 0, 0, words)
    outcome = loaded.run()
    assert loaded.pending(4, 0, 0) == 3
    assert outcome.stalled
    assert "host: 3 words of color 4 to PE (0, 0) wait for room in its input queue" in loaded.diagnose()

    got = list(loaded.receive(5, 0, 0, most + 3))
    loaded.run()
    got += list(loaded.receive(5, 0, 0, most + 3 - len(got)))

    assert got == words.tolist()


def test_ports_reach_into_the_fabric() -> None:
    """Words enter by a link of a tile and leave by another; the PE between adds nothing but cycles."""
    routes = ({1: image.Route(rx=("WEST",), tx=("EAST",))},)
    ports = (
        image.Port("to", "in", 0, 0, "WEST", 1),
        image.Port("from", "out", 0, 0, "EAST", 1),
    )
    code = Code()
    loaded = machine(code, [program(code.add(lambda pe: None))], routes=routes, ports=ports)
    loaded.send("to", 0, 0, np.array([3, 4], np.uint32))
    loaded.run()

    assert loaded.receive("from", 0, 0, 5).tolist() == [3, 4]
    with pytest.raises(InputError, match="no port 'frm' out; the program has from"):
        loaded.receive("frm", 0, 0, 1)


def test_counter_random_numbers_and_registers() -> None:
    """The counter counts the thread's cycles; the generator is the published one; routes show in their registers."""

    def main(pe: Pe) -> None:
        pe.call("ow_tsc_control", 1)
        pe.spend(0x12345)
        pe.store(0, pe.call("ow_tsc", 0) | pe.call("ow_tsc", 1) << 16)
        pe.store(4, pe.call("ow_random16"))
        pe.store(8, pe.call("ow_random16"))
        pe.store(12, pe.call("ow_config_read", 0x7F21))
        pe.call("ow_config_write", 0x7F21, 0x0204)
        pe.store(16, pe.call("ow_config_read", 0x7F21))

    code = Code()
    loaded = machine(code, [program(code.add(main), tasks=(main_task(),))], routes=EASTWARD)
    loaded.run()

    state = 0xDEADBEEF & 0x7FFFFF
    drawn = []
    for _ in range(2):
        for _ in range(128):
            state = state >> 1 ^ (0x420000 if state & 1 else 0)
        drawn.append(state & 0xFFFF)
    assert array(loaded, 0, 0, 5, np.uint32).tolist() == [0x12345, *drawn, 16 << 5 | 2, 0x0204]


def test_prints_and_traces_reach_the_host() -> None:
    """<simprint> gives whole lines with their cycle, <debug> keys with values of their type."""

    def main(pe: Pe) -> None:
        kind = abi.PrintKind
        pe.spend(30)
        pe.call("ow_print", kind.STRING, 0, 0)
        pe.call("ow_print", kind.I16, 0xFFFF, 0)
        pe.call("ow_print", kind.STRING, 0, 1)
        pe.call("ow_trace", 2, kind.F32, 0x40200000, 0)
        pe.call("ow_trace", 2, kind.I32, 0xFFFFFFFE, 0)
        pe.call("ow_trace", 2, kind.STRING, 0, 0)

    code = Code()
    made = program(code.add(main), tasks=(main_task(),), strings=("a = ", "\n", "key"))
    loaded = machine(code, [made])
    loaded.run()

    start = int(loaded.timing["tasks.dispatch_cycles"])
    assert loaded.prints() == [(start + 30, 0, 0, "a = -1")]
    assert loaded.traces(0, 0) == [("key", 2.5), ("key", -2), ("key", "a = ")]


def test_the_trace_tells_what_pes_do() -> None:
    """Off by default; on, one record for each begin and end, by cycle."""
    code = Code()
    second = program(code.add(lambda pe: None), queues=IN)
    loaded = machine(code, [sender(code, 3), second], routes=EASTWARD)
    loaded.set_trace(wavelets=True)
    loaded.run()
    records = loaded.trace()

    assert (np.diff(records["cycle"].astype(int)) >= 0).all()
    kinds = records["kind"].tolist()
    assert kinds.count(TraceKind.WAVELET_OUT) == kinds.count(TraceKind.WAVELET_IN) == 3
    assert kinds[0] == TraceKind.TASK_START
    assert records[records["kind"] == TraceKind.VECTOR_START]["a"].tolist() == [8]


def test_equal_machines_take_equal_cycles() -> None:
    """Nothing depends on addresses, time, or the order of tiles."""

    def build() -> Machine:
        code = Code()
        second = program(code.add(lambda pe: None), queues=IN)
        return machine(code, [sender(code, 10), second], routes=EASTWARD)

    first, other = build(), build()
    first.run()
    while not other.run(7).idle:
        pass

    assert first.cycle == other.cycle or first.diagnose() == other.diagnose()
    assert first.statistics(0, 0) == other.statistics(0, 0)


def test_memory_is_read_and_written_by_rectangles() -> None:
    """A host copies many words from many PEs: one call, whatever the element."""
    code = Code()
    empty = program(code.add(lambda pe: None))
    loaded = machine(code, [empty, empty, empty])
    block = np.arange(6, dtype=np.uint16).reshape(1, 2, 3)
    loaded.write_block(1, 0, 10, block)

    np.testing.assert_array_equal(loaded.read_block(1, 0, 2, 1, 10, 3, np.uint16), block)
    assert loaded.read(2, 0, 10, 6) == block[0, 1].tobytes()
    with pytest.raises(InputError, match="has 4096 bytes of memory"):
        loaded.read(0, 0, 4090, 8)
    with pytest.raises(InputError, match="not all in the program's rectangle of 3 x 1"):
        loaded.read(3, 0, 0, 4)


def test_dfilt_drops_wavelets_until_control_wavelets_came() -> None:
    """Its length counts control wavelets: of 1, C, 2, C, 3 only the last stays in the queue."""

    def main(pe: Pe) -> Iterator[None]:
        for value, flags in ((1, 0), (0x1F0000, 1), (2, 0), (0x1F0000, 1), (3, 0)):
            yield from pe.vector("mov32", dsd(fabout(2, 1, 1, flags=flags)), scalar(value))

    def drop(pe: Pe) -> Iterator[None]:
        yield from pe.vector("dfilt", dsd(fabin(3, 2, 1)), asynchronous=True, end=activate(9))

    def read(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov32", pointer(0), dsd(fabin(3, 1, 1)))

    code = Code()
    first = program(code.add(main), tasks=(main_task(),), queues=OUT)
    tasks = (main_task(), image.Task(kind="local", id=9, entry=1, name="read"))
    second = program(code.add(drop, read), tasks=tasks, queues=IN)
    loaded = machine(code, [first, second], routes=EASTWARD)
    loaded.run()

    assert not loaded.failure
    assert array(loaded, 1, 0, 1, np.uint32)[0] == 3
    assert loaded.diagnose() == ""


def test_an_operation_can_advance_the_switch_behind_its_last_wavelet() -> None:
    """advance_switch: the next operation's wavelets take the next position's way."""

    def main(pe: Pe) -> Iterator[None]:
        out = fabout(2, 2, 1, flags=abi.DescriptorFlag.ADVANCE_SWITCH)
        for first in (10, 20):
            yield from pe.vector("mov32", dsd(out), scalar(first))

    def receive(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov32", dsd(mem(0, 2)), dsd(fabin(3, 2, 1)))

    code = Code()
    route = image.Route(
        rx=("RAMP",), tx=("WEST",), positions=(image.SwitchPosition(tx=("EAST",)),), pop="always_pop"
    )
    left = {1: image.Route(rx=("EAST",), tx=("RAMP",))}
    right = {1: image.Route(rx=("WEST",), tx=("RAMP",))}
    receiver = program(code.add(receive), tasks=(main_task(),), queues=IN)
    sending = program(code.add(main), tasks=(main_task(),), queues=OUT)
    loaded = machine(code, [receiver, sending, receiver], routes=(left, {1: route}, right))
    loaded.run()

    assert not loaded.failure
    assert array(loaded, 0, 0, 2, np.uint32).tolist() == [10, 10]
    assert array(loaded, 2, 0, 2, np.uint32).tolist() == [20, 20]


@pytest.mark.parametrize("pop", ["no_pop", "always_pop"])
def test_an_advanced_switch_is_the_sender_s_alone(pop: Literal["no_pop", "always_pop"]) -> None:
    """Whatever is popped, the receiver's switch stays where it is: its second wavelet goes down the ramp too."""

    def main(pe: Pe) -> Iterator[None]:
        for first in (10, 20):
            yield from pe.vector(
                "mov32", dsd(fabout(2, 1, 1, flags=abi.DescriptorFlag.ADVANCE_SWITCH)), scalar(first)
            )

    def receive(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov32", dsd(mem(0, 2)), dsd(fabin(3, 2, 1)))

    code = Code()
    sends = image.Route(rx=("RAMP",), tx=("EAST",), positions=(image.SwitchPosition(tx=("EAST",)),), pop=pop)
    takes = image.Route(rx=("WEST",), tx=("RAMP",), positions=(image.SwitchPosition(tx=("EAST",)),), pop=pop)
    sending = program(code.add(main), tasks=(main_task(),), queues=OUT)
    receiver = program(code.add(receive), tasks=(main_task(),), queues=IN)
    loaded = machine(code, [sending, receiver], routes=({1: sends}, {1: takes}))
    loaded.run()

    assert not loaded.failure
    assert array(loaded, 1, 0, 2, np.uint32).tolist() == [10, 20]


def test_libraries_reach_the_machine_through_registers() -> None:
    """The same seed draws the same numbers; a task's priority and the main thread's can be read back."""

    def main(pe: Pe) -> None:
        for place in (0, 4):
            pe.call("ow_config_write", 0x7D04, 0x1234)
            pe.call("ow_config_write", 0x7D05, 0x56)
            pe.store(place, pe.call("ow_random16"))
        for address, value in ((0x7D02, 3), (0x7D20 + 9, 1), (0x7D99, 0xABC)):
            pe.call("ow_config_write", address, value)
        pe.store(8, pe.call("ow_config_read", 0x7D02))
        pe.store(12, pe.call("ow_config_read", 0x7D20 + 9))
        pe.store(16, pe.call("ow_config_read", 0x7D99))

    code = Code()
    loaded = machine(code, [program(code.add(main), tasks=(main_task(),))])
    loaded.run()

    first, again, *rest = array(loaded, 0, 0, 5, np.uint32).tolist()
    assert first == again != 0
    assert rest == [3, 1, 0xABC]


def test_an_empty_queue_that_is_flushed_runs_the_teardown_task() -> None:
    """@queue_flush: a task bound to id 29 runs once the queue is empty, and sees which one it was."""

    def main(pe: Pe) -> None:
        pe.call("ow_queue_flush", 3)

    def flushed(pe: Pe) -> None:
        pe.store(0, pe.call("ow_config_read", 0x7D08))

    code = Code()
    tasks = (main_task(), image.Task(kind="local", id=29, entry=1, name="flushed"))
    loaded = machine(code, [program(code.add(main, flushed), tasks=tasks, queues=IN)])
    loaded.run()

    assert not loaded.failure
    assert array(loaded, 0, 0, 1, np.uint32)[0] == 1 << 3


def test_a_high_microthread_goes_before_the_main_thread() -> None:
    """One issue a cycle is shared: a high-priority receiver takes every wavelet as it comes, a low one waits."""
    ends = {}
    for level in (1, 3):

        def main(pe: Pe, level: int = level) -> Iterator[None]:
            source = fabin(3, 40, 1, priority=level)
            yield from pe.vector("mov32", dsd(mem(0, 40)), dsd(source), asynchronous=True, end=activate(9))
            for _ in range(4):
                yield from pe.vector(
                    "fmacs", dsd(mem(400, 100)), dsd(mem(400, 100)), dsd(mem(804, 100)), scalar(0)
                )

        def done(pe: Pe) -> None:
            pe.store(3000, 1)

        code = Code()
        tasks = (main_task(), image.Task(kind="local", id=9, entry=1, name="done"))
        second = program(code.add(main, done), tasks=tasks, queues=IN)
        loaded = machine(code, [sender(code, 40), second], routes=EASTWARD)
        loaded.set_trace()
        loaded.run()
        records = loaded.trace()
        ended = records[(records["kind"] == TraceKind.VECTOR_END) & (records["a"] == 3) & (records["x"] == 1)]
        ends[level] = int(ended["cycle"][0])

    assert ends[3] < 100 < ends[1]
