"""Tasks: what starts them, in which order, what blocks them, and what the host launches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fabric_programs import (
    EASTWARD,
    Code,
    Entry,
    Pe,
    activate,
    array,
    dsd,
    fabout,
    machine,
    main_task,
    mem,
    program,
    scalar,
    unblock,
)

from openwafer.artifact import _image as image
from openwafer.artifact import _pe_abi as abi
from openwafer.base import InputError

BLOCK = (abi.Action.BLOCK, abi.Target.TASK)


def logger(number: int, *then: Any) -> Entry:
    """A task that appends its number to the list at address 0 and carries out `then`."""

    def entry(pe: Pe) -> None:
        count = pe.load(0)
        pe.store(4 + 4 * count, number)
        pe.store(0, count + 1)
        for action in then:
            pe.task(action)

    return entry


def log(loaded: Any, x: int = 0) -> list[int]:
    """What loggers of PE (x, 0) wrote."""
    count = int(array(loaded, x, 0, 1, np.uint32)[0])
    return [int(one) for one in array(loaded, x, 4, count, np.uint32)]


def local(task: int, entry: int, **more: Any) -> image.Task:
    return image.Task(kind="local", id=task, entry=entry, name=f"task{task}", **more)


def test_active_tasks_run_in_turn_from_the_last_one() -> None:
    """Round-robin: a task that activates itself again and again does not keep the others from running."""
    code = Code()
    entries = code.add(logger(9, activate(9)), logger(12), logger(15))
    tasks = (local(9, 0, active=True), local(12, 1, active=True), local(15, 2, active=True))
    loaded = machine(code, [program(entries, tasks=tasks)])
    loaded.run(100)

    assert log(loaded)[:5] == [9, 12, 15, 9, 9]


def test_high_priority_tasks_run_first() -> None:
    """The published order: HIGH before LOW."""
    code = Code()
    tasks = (local(9, 0, active=True), local(12, 1, active=True, priority="high"))
    loaded = machine(code, [program(code.add(logger(9), logger(12)), tasks=tasks)])
    loaded.run()

    assert log(loaded) == [12, 9]


def test_a_blocked_task_runs_once_it_is_unblocked() -> None:
    """Blocking keeps an activation, it does not drop it."""
    code = Code()
    entries = code.add(logger(9, activate(12), unblock(12)), logger(12, activate(15)), logger(15))
    loaded = machine(
        code,
        [
            program(
                entries,
                tasks=(local(9, 0, active=True), local(12, 1, blocked=True), local(15, 2, blocked=True)),
            )
        ],
    )
    outcome = loaded.run()

    assert log(loaded) == [9, 12]
    assert outcome.idle
    assert "task task15 (id 15) is active but blocked" in loaded.diagnose()


def test_activating_an_unbound_id_is_an_error() -> None:
    """On the machine it would run whatever stands in the task table."""
    code = Code()
    loaded = machine(code, [program(code.add(logger(8, activate(11))), tasks=(main_task(),))])

    assert loaded.run().failed
    assert "task id 11 was activated, but no local task is bound to it" in loaded.failure


def send(values: list[int], *, control: bool = False, queue: int = 2) -> Entry:
    """A task that sends `values` on color 1."""

    def main(pe: Pe) -> Iterator[None]:
        for value in values:
            flags = abi.DescriptorFlag.CONTROL if control else 0
            yield from pe.vector("mov32", dsd(fabout(queue, 1, 1, flags=flags)), scalar(value))

    return main


OUT = (image.Queue("output", 2, 1),)
IN = (image.Queue("input", 3, 1),)


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
@pytest.mark.parametrize(
    ("parameters", "words"),
    [(("u32",), [0xABCD1234, 0]), (("u16",), [0x1234, 0]), (("i16", "u16"), [0x1234, 0xABCD])],
)
def test_a_data_task_gets_the_wavelet_as_its_arguments(
    architecture: image.Architecture, parameters: tuple[str, ...], words: list[int]
) -> None:
    """One 32-bit value; the low 16 bits; or data in the low half and the index in the high half."""

    def receive(pe: Pe) -> None:
        pe.store(0, pe.argument(0))
        pe.store(4, pe.argument(1))

    code = Code()
    sender = program(code.add(send([0xABCD1234])), tasks=(main_task(),), queues=OUT)
    task = image.Task(
        kind="data", id=1 if architecture == "wse2" else 3, entry=0, parameters=parameters, name="receive"
    )
    receiver = program(code.add(receive), tasks=(task,), queues=() if architecture == "wse2" else IN)
    loaded = machine(code, [sender, receiver], architecture=architecture, routes=EASTWARD)

    assert loaded.run() == loaded.run()
    assert not loaded.failure
    assert array(loaded, 1, 0, 2, np.uint32).tolist() == words


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_blocked_data_task_leaves_wavelets_in_the_queue(architecture: image.Architecture) -> None:
    """They come in order once it is unblocked; here by a task that the host launches."""

    def receive(pe: Pe) -> None:
        logger(pe.argument(0))(pe)

    channel = 1 if architecture == "wse2" else 3
    code = Code()
    sender = program(code.add(send([5, 6, 7])), tasks=(main_task(),), queues=OUT)
    tasks = (image.Task(kind="data", id=channel, entry=0, parameters=("u32",), blocked=True, name="receive"),)
    receiver = program(code.add(receive, logger(99, unblock(channel))), tasks=tasks, queues=IN)
    loaded = machine(code, [sender, receiver], architecture=architecture, routes=EASTWARD)
    loaded.run()
    assert log(loaded, 1) == []
    assert "input queue 3 (color 1) holds 3 of 4 wavelets, but its channel is blocked" in loaded.diagnose()

    loaded.launch(1, 0, 1)
    loaded.run()

    assert log(loaded, 1) == [99, 5, 6, 7]


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_control_wavelet_starts_the_task_that_it_names(architecture: image.Architecture) -> None:
    """Entry point in bits 16 to 21, data in the low half; the channel must be unblocked."""

    def control(pe: Pe) -> None:
        pe.store(0, pe.argument(0) + 1)

    code = Code()
    sender = program(code.add(send([40 << 16 | 55], control=True)), tasks=(main_task(),), queues=OUT)
    tasks = (
        image.Task(kind="control", id=40, entry=0, parameters=("u16",), name="control"),
        image.Task(kind="data", id=1 if architecture == "wse2" else 3),
    )
    receiver = program(code.add(control), tasks=tasks, queues=IN)
    loaded = machine(code, [sender, receiver], architecture=architecture, routes=EASTWARD)
    loaded.run()

    assert not loaded.failure
    assert array(loaded, 1, 0, 1, np.uint32)[0] == 56


def test_a_control_wavelet_without_a_task_is_an_error() -> None:
    """Nothing stands at that entry point."""
    code = Code()
    sender = program(code.add(send([40 << 16], control=True)), tasks=(main_task(),), queues=OUT)
    receiver = program(code.add(logger(1)), tasks=(image.Task(kind="data", id=3),), queues=IN)
    loaded = machine(code, [sender, receiver], routes=EASTWARD)

    assert loaded.run().failed
    assert "names entry point 40, but no control task is bound to it" in loaded.failure


def test_teardown_runs_its_handler_once_and_exit_lets_wavelets_pass() -> None:
    """A TEARDOWN command stalls the color; the handler gives the route back by its register's bit 14."""

    def handler(pe: Pe) -> None:
        logger(77)(pe)
        route = pe.call("ow_config_read", 0x7F20 + 1)
        pe.store(100, route)
        pe.call("ow_config_write", 0x7F20 + 1, route & ~(1 << 14))

    def main(pe: Pe) -> Iterator[None]:
        control = abi.DescriptorFlag.CONTROL
        yield from pe.vector("mov32", dsd(fabout(2, 1, 1, flags=control)), scalar(0x9DF9249))
        yield from pe.vector("mov32", dsd(fabout(2, 1, 1)), scalar(5))

    code = Code()
    first = program(
        code.add(main, handler),
        tasks=(main_task(), image.Task(kind="teardown", id=1, entry=1, name="handler")),
        queues=OUT,
    )
    second = program(
        code.add(logger(5), handler),
        tasks=(
            image.Task(kind="data", id=3, entry=0, parameters=("u32",), name="receive"),
            image.Task(kind="teardown", id=-1, entry=1, name="handler"),
        ),
        queues=IN,
    )
    loaded = machine(code, [first, second], routes=EASTWARD)
    loaded.run()

    assert not loaded.failure
    assert log(loaded, 0) == [77]
    assert sorted(log(loaded, 1)) == [5, 77]
    assert array(loaded, 0, 100, 1, np.uint32)[0] >> 14 & 1


def test_commands_wait_for_the_program_to_unblock_them() -> None:
    """A launch blocks the stream, as unblock_cmd_stream() documents; commands_idle() is what a blocking call awaits."""

    def unblocking(pe: Pe) -> None:
        logger(pe.argument(0))(pe)
        pe.call("ow_unblock_commands")

    def forgetting(pe: Pe) -> None:
        logger(pe.argument(1))(pe)

    code = Code()
    loaded = machine(code, [program(code.add(unblocking, forgetting))])
    loaded.launch(0, 0, 0, [3])
    loaded.launch(0, 0, 1, [4, 5])
    loaded.launch(0, 0, 0, [6])
    assert not loaded.commands_idle(0, 0, 1, 1)
    outcome = loaded.run()

    assert log(loaded) == [3, 5]
    assert outcome.stalled
    assert "1 commands of the host wait for unblock_cmd_stream()" in loaded.diagnose()
    with pytest.raises(InputError, match="has no entry 7"):
        loaded.launch(0, 0, 7)


def test_a_task_takes_the_cycles_of_its_code() -> None:
    """Scalar code runs ahead, and the machine's time ends no earlier than the task's."""

    def main(pe: Pe) -> Iterator[None]:
        pe.spend(500)
        yield from pe.vector("mov16", dsd(mem(0, 1)), scalar(1))

    code = Code()
    loaded = machine(code, [program(code.add(main), tasks=(main_task(),))])
    assert not loaded.run(100).idle
    assert loaded.cycle == 100
    loaded.run()

    timing = loaded.timing
    expected = timing["tasks.dispatch_cycles"] + 500 + timing["vector.setup_cycles"] * 0
    assert loaded.cycle >= expected
    assert loaded.statistics(0, 0)["tasks"] == 1
