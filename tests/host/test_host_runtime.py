"""SdkRuntime on a machine of tests: copies, launches, streams, and what goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
from host_cases import MEMORY, POINTER_ADDRESS, Y_ADDRESS, image, layout_ports, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openwafer.base import FabricError, InputError, StalledError
from openwafer.host import MemcpyDataType, MemcpyOrder, SdkRuntime, debug_util, memcpy_view, write_artifacts

B16, B32 = MemcpyDataType.MEMCPY_16BIT, MemcpyDataType.MEMCPY_32BIT
ROW, COL = MemcpyOrder.ROW_MAJOR, MemcpyOrder.COL_MAJOR


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(order=st.sampled_from([ROW, COL]), kind=st.sampled_from([B16, B32]), data=st.data())
def test_what_is_copied_in_comes_back(tmp_path, order, kind, data):
    """Any region, order and width: d2h undoes h2d, and nothing outside of the region changes."""
    runtime, machine = running(tmp_path, image(4, 3))
    x, y = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2))
    w, h = data.draw(st.integers(1, 4 - x)), data.draw(st.integers(1, 3 - y))
    count = data.draw(st.integers(1, 8))
    symbol = runtime.get_id("h" if kind is B16 else "y")
    source = np.arange(1, w * h * count + 1, dtype=np.uint32)
    result = np.zeros_like(source)

    runtime.memcpy_h2d(symbol, source, x, y, w, h, count, data_type=kind, order=order, streaming=False)
    runtime.memcpy_d2h(result, symbol, x, y, w, h, count, data_type=kind, order=order, streaming=False)

    assert (result == source).all()
    touched = {place for place, memory in machine.memory.items() if any(memory)}
    assert touched == {(i, j) for i in range(x, x + w) for j in range(y, y + h)}


def test_row_major_has_the_elements_of_a_pe_side_by_side(tmp_path):
    """The host array is [row, column, element] in C order, or in Fortran order: "SdkRuntime API Reference", order."""
    runtime, machine = running(tmp_path, image(2, 2))
    values = np.arange(12, dtype=np.float32)

    runtime.memcpy_h2d(runtime.get_id("y"), values, 0, 0, 2, 2, 3, order=ROW, data_type=B32)
    row_major = np.frombuffer(machine.memory[1, 0], np.float32, 3, Y_ADDRESS).copy()
    runtime.memcpy_h2d(runtime.get_id("y"), values, 0, 0, 2, 2, 3, order=COL, data_type=B32)
    column_major = np.frombuffer(machine.memory[1, 0], np.float32, 3, Y_ADDRESS)

    assert list(row_major) == [3, 4, 5]
    assert list(column_major) == [2, 6, 10]


def test_sixteen_bit_elements_have_a_word_each_on_the_host(tmp_path):
    """The low half of each word is the element, so f16 arrays go through memcpy_view."""
    runtime, machine = running(tmp_path, image(1, 1))
    words = np.zeros(4, np.uint32)
    memcpy_view(words, np.dtype(np.float16))[:] = [1.5, -2, 3, 4]

    runtime.memcpy_h2d(runtime.get_id("h"), words, 0, 0, 1, 1, 4, data_type=B16, order=ROW)

    assert list(np.frombuffer(machine.memory[0, 0], np.float16, 4, 256)) == [1.5, -2, 3, 4]


def test_a_row_is_broadcast_down_the_columns_and_a_column_along_the_rows(tmp_path):
    """colbcast takes [column, element] and rowbcast [row, element]; every PE of that column or row has them."""
    runtime, machine = running(tmp_path, image(3, 2))
    y = runtime.get_id("y")

    runtime.memcpy_h2d_colbcast(y, np.arange(6, dtype=np.int32), 0, 0, 3, 2, 2, data_type=B32, order=ROW)
    by_column = [list(np.frombuffer(machine.memory[2, row], np.int32, 2, Y_ADDRESS)) for row in (0, 1)]
    runtime.memcpy_h2d_rowbcast(y, np.arange(4, dtype=np.int32), 0, 0, 3, 2, 2, data_type=B32, order=COL)
    by_row = [list(np.frombuffer(machine.memory[x, 1], np.int32, 2, Y_ADDRESS)) for x in (0, 1, 2)]

    assert by_column == [[4, 5], [4, 5]]
    assert by_row == [[1, 3]] * 3


def test_strides_reach_only_some_pes(tmp_path):
    """Every third column and second row of a region receive: the example of the documentation, smaller."""
    runtime, machine = running(tmp_path, image(6, 3))

    runtime.memcpy_h2d_stride(
        runtime.get_id("y"), np.arange(1, 5, dtype=np.int32), 0, 0, 6, 3, 1, 3, 2, data_type=B32, order=ROW
    )

    have = {place: memory[Y_ADDRESS] for place, memory in machine.memory.items() if any(memory)}
    assert have == {(0, 0): 1, (3, 0): 2, (0, 2): 3, (3, 2): 4}


def test_an_exported_pointer_that_moved_is_followed(tmp_path):
    """Programs swap buffers by assigning to the exported pointer; a copy goes where it points now."""
    runtime, machine = running(tmp_path, image(2, 1))
    for x, address in ((0, 128), (1, 200)):
        machine.write(x, 0, POINTER_ADDRESS, address.to_bytes(2, "little"))

    runtime.memcpy_h2d(runtime.get_id("p"), np.array([7, 9], np.uint32), 0, 0, 2, 1, 1, data_type=B32)

    assert machine.memory[0, 0][128] == 7
    assert machine.memory[1, 0][200] == 9


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            Y_ADDRESS + 24,
            "12 bytes per PE are copied, and y ([8]f32) of pe.csl has 8 from there on; copy fewer elements or make it "
            "larger; the pointer 'p' of PE (1, 0) has the value 88 now",
        ),
        (
            MEMORY - 4,
            "12 bytes from address 1020 leave the PE's memory of 1024 bytes; copy fewer elements; the pointer 'p' of PE "
            "(1, 0) has the value 1020 now",
        ),
        (
            0,
            "address 0 lies before the first variable of pe.csl; set the pointer before the copy; the pointer 'p' of PE "
            "(1, 0) has the value 0 now",
        ),
    ],
)
def test_a_copy_through_a_pointer_stays_within_what_it_points_to(tmp_path, value, message):
    """Where a pointer can change, its value at the copy decides; past the end lie other variables, which may be read."""
    runtime, machine = running(tmp_path, image(2, 1))
    machine.write(0, 0, POINTER_ADDRESS, Y_ADDRESS.to_bytes(2, "little"))
    machine.write(1, 0, POINTER_ADDRESS, value.to_bytes(2, "little"))
    before = bytes(machine.memory[0, 0])
    words, p = np.ones(6, np.uint32), runtime.get_id("p")

    harmless = value == Y_ADDRESS + 24
    with pytest.warns(UserWarning, match="copied") if harmless else pytest.raises(InputError) as of_read:
        runtime.memcpy_d2h(words, p, 0, 0, 2, 1, 3, data_type=B32)
    runtime, machine = running(tmp_path, image(2, 1))
    machine.memory[0, 0][:], machine.memory[1, 0][:] = before, before
    machine.write(1, 0, POINTER_ADDRESS, value.to_bytes(2, "little"))
    with pytest.raises(InputError) as of_write:
        runtime.memcpy_h2d(p, words, 0, 0, 2, 1, 3, data_type=B32)

    said = f"memcpy_d2h from 'p': {message}"
    if harmless:
        assert str(of_read.pop(UserWarning).message) == f"{said}; the rest is what lies behind it"
    else:
        assert str(of_read.value) == said
    assert str(of_write.value) == f"memcpy_h2d to 'p': {message}"
    assert machine.memory[0, 0] == before


def test_a_read_past_a_variable_s_end_is_only_warned_of(tmp_path):
    """stencil-v2 of SDK 1.0 copies six words out of an array of five and does not look at the last."""
    runtime, machine = running(tmp_path, image(1, 1))
    machine.write(0, 0, Y_ADDRESS, np.arange(10, dtype=np.float32).tobytes())
    words = np.zeros(9, np.float32)

    with pytest.warns(UserWarning, match=r"y \(\[8\]f32\) of pe.csl has 32 from there on"):
        runtime.memcpy_d2h(words, runtime.get_id("y"), 0, 0, 1, 1, 9, data_type=B32)

    assert list(words) == list(range(9))


def test_a_launch_reaches_every_pe_with_checked_arguments(tmp_path):
    """Arguments are sent as the words of their types; a wrong type or number names the function's own."""
    runtime, machine = running(tmp_path, image(2, 1))

    runtime.launch("g", np.int16(-2), np.float32(1.0), nonblock=False)

    assert machine.ran == [(0, 0, 4, [0xFFFE, 0x3F800000]), (1, 0, 4, [0xFFFE, 0x3F800000])]
    with pytest.raises(InputError, match=r"g\(i16, f32\): it takes 2 arguments, not 1"):
        runtime.launch("g", np.int16(1), nonblock=False)
    with pytest.raises(
        InputError, match=r"argument 1 has type int, and the function takes f32; write np\.float32"
    ):
        runtime.launch("g", 1, 2, nonblock=False)
    with pytest.raises(InputError, match="argument 0 is 40000, and i16 holds -32768 to 32767"):
        runtime.launch("g", 40000, 1.0, nonblock=False)
    runtime.call("g", [np.int16(3), np.float32(2.0)], nonblock=False)
    assert machine.ran[-1] == (1, 0, 4, [3, 0x40000000])


def test_nonblocking_commands_keep_their_order_and_wait_for_nobody(tmp_path):
    """They are done when something waits; the cycles they take then do not depend on the host's speed."""
    runtime, machine = running(tmp_path, image(1, 1))
    order = []
    machine.functions[3] = lambda m, x, y, a: order.append(m.memory[0, 0][Y_ADDRESS]) or True
    y = runtime.get_id("y")

    tasks = [
        runtime.memcpy_h2d(y, np.array([5], np.uint32), 0, 0, 1, 1, 1, data_type=B32, nonblock=True),
        runtime.launch("f", nonblock=True),
        runtime.memcpy_h2d(y, np.array([6], np.uint32), 0, 0, 1, 1, 1, data_type=B32, nonblock=True),
    ]
    assert (machine.calls, [task.done for task in tasks]) == (0, [False] * 3)
    runtime.task_wait(tasks[1])
    assert not tasks[2].done
    while not runtime.is_task_done(tasks[2]):
        pass

    assert order == [5]
    assert machine.memory[0, 0][Y_ADDRESS] == 6


def test_a_function_that_never_unblocks_is_told_at_the_next_command(tmp_path):
    """Without unblock_cmd_stream a program hangs; the host says which launch it was and which PEs wait."""
    runtime, machine = running(tmp_path)
    machine.functions[3] = lambda m, x, y, a: (x, y) != (1, 0)
    runtime.launch("f", nonblock=False)

    with pytest.raises(StalledError) as told:
        runtime.memcpy_d2h(np.zeros(4, np.float32), runtime.get_id("y"), 0, 0, 2, 2, 1, data_type=B32)

    text = str(told.value)
    assert (
        "memcpy_d2h from 'y' cannot go on: it waits for PEs (0, 0) to (1, 1) to unblock the command" in text
    )
    assert "unblock_cmd_stream() of <memcpy/memcpy>" in text
    assert "'f' was launched last" in text
    assert "PE (1, 0): the command stream is blocked" in text


def test_stop_warns_of_a_function_that_only_never_unblocked(tmp_path):
    """It has done its work, and no command comes behind it that would wait; the next change of the script may add one."""
    runtime, machine = running(tmp_path)
    machine.functions[3] = lambda *_: False
    runtime.launch("f", nonblock=False)

    with pytest.warns(
        UserWarning, match=r"'f', launched last, has not called unblock_cmd_stream\(\)"
    ) as told:
        runtime.stop()

    assert told[0].filename == __file__


def test_stop_tells_of_a_function_that_cannot_end(tmp_path):
    """What it waits for is why it did not unblock the stream: its work is not done."""
    runtime, machine = running(tmp_path)
    machine.functions[3] = lambda *_: False
    machine.stuck = "PE (0, 0): task f waits\n"
    runtime.launch("f", nonblock=False)

    with pytest.raises(StalledError, match="stop cannot go on") as told:
        runtime.stop()

    assert "task f waits" in str(told.value)


def test_streams_go_in_and_out_in_order(tmp_path):
    """H2D ends when the fabric has taken every word, and only then D2H begins: csl.md section 2.2."""
    runtime, _ = running(tmp_path, image(2, 1))
    result = np.zeros(6, np.uint32)

    runtime.memcpy_h2d(
        0, np.arange(6, dtype=np.uint32), 0, 0, 2, 1, 3, streaming=True, order=ROW, nonblock=True
    )
    runtime.memcpy_d2h(result, 1, 0, 0, 2, 1, 3, streaming=True, order=ROW)

    assert list(result) == [1, 2, 3, 4, 5, 6]


def test_a_stream_that_the_fabric_cannot_hold_stalls(tmp_path):
    """pipeline-01 with a size of 15: nothing takes the words before D2H, which waits for H2D."""
    runtime, _ = running(tmp_path, image(1, 1))
    runtime.memcpy_h2d(0, np.arange(5, dtype=np.uint32), 0, 0, 1, 1, 5, streaming=True, nonblock=True)

    with pytest.raises(
        StalledError, match="memcpy_h2d of color 0 cannot go on: it waits for the words of color 0"
    ):
        runtime.memcpy_d2h(np.zeros(5, np.uint32), 1, 0, 0, 1, 1, 5, streaming=True)


def test_ports_of_a_layout_run_side_by_side(tmp_path):
    """Sends and receives on different ports do not wait for each other, so 9 words pass a buffer of 4."""
    runtime, _ = running(tmp_path, image(1, 1, memcpy=False, ports=layout_ports(), streams={}))
    result = np.zeros(9, np.float32)

    runtime.send("in", np.arange(9, dtype=np.uint32), nonblock=True)
    runtime.receive("out", result, 9, nonblock=True)
    runtime.stop()

    assert list(result.view(np.uint32)) == list(range(1, 10))


def test_an_error_of_the_fabric_is_raised_at_every_later_call(tmp_path):
    """A broken machine has no later state; the error must not get lost behind a second command."""
    runtime, machine = running(tmp_path)
    machine.failure = "PE (0, 0), pe.csl:12: index 9 is out of bounds"

    for _ in range(2):
        with pytest.raises(FabricError, match="index 9 is out of bounds"):
            runtime.launch("f", nonblock=False)
    runtime.stop()


def test_printed_lines_are_in_sim_log_with_their_cycle(tmp_path):
    """Scripts and people read sim.log in the working directory."""
    runtime, machine = running(tmp_path)
    machine.printed.append((968, 0, 0, "sender beginning"))

    runtime.stop()

    lines = (tmp_path / "sim.log").read_text().splitlines()
    assert lines[:2] == ["@0 Architecture is: wse2", "@0 dimX=9, dimY=4"]
    assert lines[2:] == ["@968 sender beginning"]


def test_a_stopped_program_can_be_looked_at(tmp_path):
    """debug_util and read_symbol count places on the fabric, from the offsets of the compilation."""
    runtime, machine = running(tmp_path, image(2, 2))
    machine.write(1, 0, Y_ADDRESS, np.arange(8, dtype=np.float32).tobytes())
    runtime.stop()

    debug = debug_util(tmp_path / "out")

    assert list(runtime.read_symbol(5, 1, "y", dtype="float32")) == list(range(8))
    assert list(debug.get_symbol(5, 1, "y", np.float32)) == list(range(8))
    assert debug.get_symbol_rect(((4, 1), (2, 2)), "y", np.float32).shape == (2, 2, 8)
    assert debug.read_trace(5, 2, "trace") == [11]
    assert runtime.coord_logical_to_physical((1, 1)) == (5, 2)
    with pytest.raises(InputError, match="no variable 'yy'; did you mean 'y'"):
        debug.get_symbol(5, 1, "yy", np.float32)
    with pytest.raises(InputError, match="begins at \\(4, 1\\) and is 2 x 2"):
        debug.get_symbol(0, 0, "y", np.float32)


def test_a_core_file_shows_the_same_as_the_run(tmp_path, monkeypatch):
    """dump_core lets another process look."""
    runtime, machine = running(tmp_path)
    machine.write(0, 1, Y_ADDRESS, b"\x01\x02")
    runtime.dump_core("corefile.cs1")
    monkeypatch.setattr("openwafer.host._core._stopped", {})

    assert list(debug_util("out").get_symbol(4, 2, "y", "uint16")[:2]) == [0x0201, 0]
    assert debug_util("out").read_trace(4, 2, "trace") == [10]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.get_id("yy"), "no name 'yy' is exported; did you mean 'y'"),
        (lambda r: r.launch("y"), "y is exported as a variable"),
        (
            lambda r: r.memcpy_h2d(0, np.zeros(4, np.float64), 0, 0, 2, 2, 1),
            "the array has float64; convert it",
        ),
        (lambda r: r.memcpy_h2d(1, np.zeros(4, np.int16), 0, 0, 2, 2, 1), "input_array_to_u32"),
        (
            lambda r: r.memcpy_h2d(0, np.zeros(3, np.int32), 0, 0, 2, 2, 1),
            "3 elements, and 2 x 2 x 1 = 4 are copied",
        ),
        (
            lambda r: r.memcpy_h2d(0, np.zeros(4, np.int32), 1, 0, 2, 2, 1),
            "begins at \\(1, 0\\) and is 2 x 2",
        ),
        (
            lambda r: r.memcpy_h2d(0, np.zeros(40, np.int32), 0, 0, 1, 1, 9),
            "36 bytes per PE are copied, and y",
        ),
        (lambda r: r.memcpy_h2d(3, np.zeros(4, np.int32), 0, 0, 1, 1, 1), "f is a function; launch it"),
        (lambda r: r.memcpy_h2d(77, np.zeros(4, np.int32), 0, 0, 1, 1, 1), "77 is no id"),
        (lambda r: r.memcpy_d2h(np.zeros(4, np.int32), 0, 0, 0, 1, 1, 1, streaming=True), "there are 1"),
        (lambda r: r.load(), "the runtime is running: load\\(\\) comes first"),
        (lambda r: r.send("x", np.zeros(1, np.int32)), "no port 'x'; there are none"),
        (lambda r: SdkRuntime("out", cmadr="a"), "no option 'cmadr'; did you mean cmaddr"),
        (lambda r: SdkRuntime("out", cmaddr="1.2.3.4:9000"), "openwafer only simulates"),
        (lambda r: SdkRuntime("nowhere"), "nowhere is no folder of a compiled program; compile it first"),
    ],
)
def test_a_wrong_call_says_what_is_right(tmp_path, call, message):
    """A host program's mistakes end in one sentence, not in a machine that hangs."""
    runtime, _ = running(tmp_path)

    with pytest.raises(InputError, match=message):
        call(runtime)


def test_scripts_find_the_parameters_of_the_compilation(tmp_path):
    """out.json and bin/out_rpc.json are what existing scripts and tools read."""
    import json

    write_artifacts(image(), tmp_path / "out", params={"MEMCPYH2D_DATA_1_ID": "0"}, colors={"c": "3"})

    told = json.loads((tmp_path / "out" / "out.json").read_text())
    assert told == {"params": {"size": "8", "MEMCPYH2D_DATA_1_ID": "0"}, "colors": {"c": "3"}}
    symbols = json.loads((tmp_path / "out" / "bin" / "out_rpc.json").read_text())["rpc_symbols"]
    assert [(one["id"], one["name"], one["kind"]) for one in symbols[:2]] == [
        (0, "y", "Var"),
        (1, "h", "Var"),
    ]
    assert symbols[4]["inputs"] == [{"name": "arg0", "type": "i16"}, {"name": "arg1", "type": "f32"}]
