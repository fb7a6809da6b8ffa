"""Legal disorder: drawn from a seed alone, and felt by everything whose order nobody promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fabric_programs import Code, Pe, array, dsd, fabin, fabout, machine, main_task, mem, program

from openwafer.artifact import _image as image
from openwafer.base import InputError
from openwafer.fabric import Machine

SEEDS = range(1, 9)
MEETING = (
    {1: image.Route(rx=("RAMP",), tx=("EAST",))},
    {1: image.Route(rx=("WEST",), tx=("RAMP",)), 2: image.Route(rx=("EAST",), tx=("RAMP",))},
    {2: image.Route(rx=("RAMP",), tx=("WEST",))},
)
"""Two PEs send to the one between them, on a color each."""


def sender(code: Code, color: int, first: int) -> image.Program:
    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov32", dsd(fabout(2, 20, color)), dsd(mem(0, 20)))

    memory = np.arange(first, first + 20, dtype=np.uint32).tobytes()
    queues = (image.Queue("output", 2, color),)
    return program(code.add(main), memory, tasks=(main_task(),), queues=queues)


def meeting(jitter: int) -> Machine:
    """The one between writes down what arrives, in the order of its arrival."""

    def note(pe: Pe) -> None:
        count = pe.load(0)
        pe.store(4 + 4 * count, pe.argument(0))
        pe.store(0, count + 1)

    code = Code()
    first, second = sender(code, 1, 100), sender(code, 2, 200)
    tasks = tuple(
        image.Task(kind="data", id=queue, entry=0, parameters=("u32",), name="note") for queue in (3, 4)
    )
    queues = (image.Queue("input", 3, 1), image.Queue("input", 4, 2))
    between = program(code.add(note), tasks=tasks, queues=queues)
    loaded = machine(code, [first, between, second], routes=MEETING, jitter=jitter)
    loaded.run()
    assert not loaded.failure
    return loaded


def arrivals(loaded: Machine) -> list[int]:
    return [int(one) for one in array(loaded, 1, 4, 40, np.uint32)]


def test_a_stream_keeps_its_order_and_two_streams_have_none() -> None:
    """Wavelets of one color on one way never overtake each other; which of two colors comes first is anyone's guess."""
    seen = [arrivals(meeting(seed)) for seed in SEEDS]

    for one in seen:
        assert [word for word in one if word < 200] == list(range(100, 120))
        assert [word for word in one if word >= 200] == list(range(200, 220))
    assert len({tuple(one) for one in seen}) > len(SEEDS) // 2


def test_a_seed_gives_the_same_disorder_again() -> None:
    """A program that fails with a seed fails with it tomorrow."""
    first, second, other = meeting(5), meeting(5), meeting(6)

    assert (first.cycle, arrivals(first)) == (second.cycle, arrivals(second))
    assert (first.cycle, arrivals(first)) != (other.cycle, arrivals(other))


def test_active_tasks_run_in_any_order() -> None:
    """Round-robin is this machine's choice and not the language's promise."""

    def logger(number: int) -> Any:
        def entry(pe: Pe) -> None:
            count = pe.load(0)
            pe.store(4 + 4 * count, number)
            pe.store(0, count + 1)

        return entry

    orders = set()
    for seed in SEEDS:
        code = Code()
        entries = code.add(*[logger(number) for number in range(4)])
        tasks = tuple(image.Task(kind="local", id=9 + one, entry=one, active=True) for one in range(4))
        loaded = machine(code, [program(entries, tasks=tasks)], jitter=seed)
        loaded.run()
        order = tuple(int(one) for one in array(loaded, 0, 4, 4, np.uint32))
        assert sorted(order) == [0, 1, 2, 3]
        orders.add(order)

    assert len(orders) > len(SEEDS) // 2


def test_microthreads_of_equal_priority_take_turns_at_random() -> None:
    """Two operations share the datapath; which of them has issued more at some cycle depends on the seed."""

    def main(pe: Pe) -> Iterator[None]:
        for queue in (2, 3):
            out = fabout(queue, 60, queue - 1)
            yield from pe.vector("mov32", dsd(out), dsd(mem(0, 60)), asynchronous=True)

    def receive(pe: Pe) -> Iterator[None]:
        for queue in (3, 4):
            place = mem(400 * queue, 60)
            yield from pe.vector("mov32", dsd(place), dsd(fabin(queue, 60, queue - 2)), asynchronous=True)

    code = Code()
    both = tuple(image.Queue("output", queue, queue - 1) for queue in (2, 3))
    first = program(code.add(main), tasks=(main_task(),), queues=both)
    queues = tuple(image.Queue("input", queue, queue - 2) for queue in (3, 4))
    second = program(code.add(receive), tasks=(main_task(),), queues=queues)
    routes = tuple(
        {color: image.Route(rx=(rx,), tx=(tx,)) for color in (1, 2)}
        for rx, tx in (("RAMP", "EAST"), ("WEST", "RAMP"))
    )
    halfway = set()
    for seed in SEEDS:
        loaded = machine(code, [first, second], routes=routes, jitter=seed)
        loaded.run(60)
        halfway.add(loaded.statistics(0, 0)["wavelets_out"])
        loaded.run()
        assert not loaded.diagnose()

    assert len(halfway) > 2


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_is_a_number_of_32_bits(seed: int) -> None:
    """Anything else would be cut off unnoticed."""
    with pytest.raises(InputError, match="is no seed; give 1 to 4294967295, or 0 for none"):
        machine(Code(), [], jitter=seed)
