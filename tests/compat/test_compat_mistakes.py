"""What a user reads after a mistake, whole texts as `cslc` and `cs_python` print them: what, where, why, what to do next."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wrong_runs import FLAGS, LAYOUT, PE, RUN

from openwafer.artifact import _image
from openwafer.compat import cs_python, cslc


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder with the program of `wrong_runs`, compiled."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "layout.csl").write_text(LAYOUT)
    (folder / "pe.csl").write_text(PE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cslc(["layout.csl", *FLAGS]) == 0
    return folder


@pytest.fixture
def run(compiled, monkeypatch, capsys):
    """Runs statements behind those of RUN; the status and what is on stderr, without the line of the script."""

    def run(statement: str) -> tuple[int, str]:
        monkeypatch.chdir(compiled)
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        Path("run.py").write_text(RUN + statement + "\n")
        status = cs_python(["run.py"])
        text = capsys.readouterr().err.replace(f"    {statement.splitlines()[-1]}\n", "", 1)
        return status, text.rstrip("\n")

    return run


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "index', np.int16(8)",
            "pe.csl:16:5: PE (0, 0), task index, cycle N: index 8 is outside the array, whose extent here is 8; "
            "check the bounds of the loop",
        ),
        (
            "index', np.int16(-1)",
            "pe.csl:16:5: PE (0, 0), task index, cycle N: index -1 is outside the array, whose extent here is 8; "
            "check the bounds of the loop",
        ),
        (
            "through', np.uint16(12000)",
            "pe.csl:20:14: PE (0, 0), task through, cycle N: an access of 4 bytes at address N is outside the memory "
            "of N bytes; check the pointer",
        ),
        (
            "divide', np.int32(0)",
            "pe.csl:24:7: PE (0, 0), task divide, cycle N: a division by zero; check the divisor first",
        ),
        (
            "unrouted'",
            "pe.csl: PE (0, 0), cycle N: a wavelet of color 5 is at tile (4, 1) of the fabric, whose router has no route "
            "for it: give the tile a route for color 5, or end the route of the tile before it",
        ),
        (
            "uninitialised'",
            "pe.csl:36:3: PE (0, 0), task uninitialised, cycle N: input queue 4 was never initialised; call "
            "@initialize_queue with its color in a comptime block",
        ),
        (
            "twice'",
            "pe.csl:41:3: PE (0, 0), task twice, cycle N: re-entry of microthread 3: @mov32 begins while @mov32 at "
            "pe.csl:40:3 still uses it; wait for its end (activate or unblock a task), or use another queue",
        ),
        ("idnex', np.int16(1)", "no function 'idnex' is exported; did you mean 'index'?"),
        ("index'", "launch of index(i16): it takes 1 arguments, not 0"),
        (
            "index', np.float32(1)",
            "launch of index(i16): argument 0 has type float32, and the function takes i16; write np.int16(1.0)",
        ),
        ("index', np.int16(1), np.int16(2)", "launch of index(i16): it takes 1 arguments, not 2"),
    ],
)
def test_a_launch_that_goes_wrong_says_where_in_the_program(run, call, message):
    """The script's line, then the PE's place in the source, the task, and a mend."""
    status, text = run(f"runner.launch('{call}, nonblock=False)\nrunner.stop()")

    text = re.sub(r"cycle \d+", "cycle N", text.partition("\n")[0])
    text = re.sub(r"address \d+", "address N", re.sub(r"memory of \d+", "memory of N", text))
    assert status == 1
    assert re.fullmatch(r"run\.py:[89]: error: .*", text)
    assert text.partition(": error: ")[2] == message


def test_a_failed_assertion_names_its_line(run):
    """@assert is how programs check themselves."""
    status, text = run("runner.launch('check', np.bool_(False), nonblock=False)")

    assert status == 1
    expected = (
        r"run\.py:8: error: pe\.csl:28:3: PE \(0, 0\), task check, cycle \d+: an assertion does not hold"
    )
    assert re.fullmatch(expected, text)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "runner.memcpy_h2d(y, np.zeros(15, np.float32), 0, 0, 2, 1, 8, **how)",
            "memcpy_h2d: the array has 15 elements, and 1 x 2 x 8 = 16 are copied",
        ),
        (
            "runner.memcpy_d2h(np.zeros(16, np.float64), y, 0, 0, 2, 1, 8, **how)",
            "memcpy_d2h: the host side is 32-bit words, and the array has float64; convert it with "
            ".astype(np.float32), np.int32 or np.uint32",
        ),
        (
            "runner.memcpy_d2h(np.zeros(16, np.float32), y, 1, 0, 2, 1, 8, **how)",
            "memcpy_d2h: the region begins at (1, 0) and is 2 x 1 PEs, and the program's rectangle is 2 x 1",
        ),
        (
            "runner.get_id('z')",
            "no name 'z' is exported; there are check, divide, forget, index, listen, through, twice, uninitialised, "
            "unrouted, y",
        ),
        ("runner.load()", "the runtime is running: load() comes first, and once"),
        (
            "SdkRuntime('nowhere')",
            "nowhere is no folder of a compiled program; compile it first, for example with cslc layout.csl ... -o nowhere",
        ),
    ],
)
def test_a_wrong_call_of_the_host_is_one_sentence(run, call, message):
    """At the line of the script that made it."""
    assert run(call) == (1, f"run.py:8: error: {message}")


def test_a_program_that_waits_for_ever_is_diagnosed(run):
    """Every task, operation and queue that waits, on every PE, and what the host can do about it."""
    status, text = run(
        "runner.launch('listen', nonblock=False)\n"
        "runner.memcpy_d2h(np.zeros(2, np.float32), y, 0, 0, 2, 1, 1, **how)"
    )

    assert status == 1
    assert text.splitlines() == [
        "run.py:9: error: memcpy_d2h from 'y' cannot go on: it waits for PEs (0, 0) to (1, 0) to unblock the command "
        "stream, and nothing on the fabric can move any more",
        "hint: a function that the host launches has to call unblock_cmd_stream() of <memcpy/memcpy>, itself or in a "
        "task that it starts, on every PE; 'listen' was launched last",
        *[
            line
            for x in range(2)
            for line in (
                f"PE ({x}, 0) pe.csl:",
                "  task listen: @mov32 at pe.csl:45:3, 4 elements to go, waits: input queue 3 is empty (color 6)",
                "  the command of the host that runs has not called unblock_cmd_stream()",
            )
        ],
    ]


def test_the_line_of_the_script_stands_before_a_diagnosis(compiled, monkeypatch, capsys):
    """A stall of many PEs fills the screen; what led there is read first."""
    monkeypatch.chdir(compiled)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    Path("run.py").write_text(RUN + "runner.launch('listen', nonblock=False)\nrunner.stop()\n")

    assert cs_python(["run.py"]) == 1

    first, second, third = capsys.readouterr().err.splitlines()[:3]
    assert first.startswith("run.py:9: error: stop cannot go on")
    assert second == "    runner.stop()"
    assert third.startswith("hint: ")


def test_a_function_that_forgets_the_command_stream_is_warned_of_at_the_end(run):
    """No command comes behind it that would wait: all that the script asked for has been done."""
    with pytest.warns(
        UserWarning, match="'forget', launched last, has not called unblock_cmd_stream"
    ) as told:
        status, _ = run("runner.launch('forget', nonblock=False)\nrunner.stop()")

    assert status == 0
    assert (told[0].filename, told[0].lineno) == ("run.py", 9)


# --- what is on the disk ---


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda data: data[: len(data) // 2],
            "is damaged (Input data was truncated); compile the program again",
        ),
        (
            lambda data: data.replace(b"image ", b"image 0", 1),
            "was compiled with another version of openwafer; compile the program again",
        ),
        (lambda data: b"\x7fELF" + data, "is no compiled program; compile the program again"),
        (lambda data: b"", "is no compiled program; compile the program again"),
    ],
)
def test_an_image_that_is_not_whole_is_refused(compiled, run, damage, message):
    """Cut off, of other fields, another file, or empty."""
    path = compiled / "out" / "image.msgpack"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    try:
        assert run("pass") == (
            1,
            f'run.py:4: error: out/image.msgpack {message}\n    runner = SdkRuntime("out")',
        )
    finally:
        path.write_bytes(whole)


def test_a_folder_without_an_image_says_to_compile(compiled, run):
    """As a compilation that was interrupted leaves it."""
    path = compiled / "out" / "image.msgpack"
    path.rename(compiled / "kept")
    try:
        status, text = run("pass")
    finally:
        (compiled / "kept").rename(path)

    assert (status, text.splitlines()[0]) == (
        1,
        "run.py:4: error: out/image.msgpack cannot be read: No such file or directory; compile the program first",
    )


def command(name: str, *arguments: str, folder: Path, **options: object) -> subprocess.Popen[str]:
    """What a console script of that name does, started."""
    code = f"import sys; from openwafer.compat import {name}; sys.exit({name}())"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_a_full_disk_leaves_no_half_written_program(compiled, tmp_path):
    """The process may write 4 KiB a file, which the image exceeds."""
    for name in ("layout.csl", "pe.csl"):
        (tmp_path / name).write_text((compiled / name).read_text())

    process = command(
        "cslc",
        "layout.csl",
        *FLAGS,
        folder=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert (
        errors
        == "cslc: error: out cannot be written: File too large; make room, or choose another folder with -o\n"
    )
    assert not [path.name for path in (tmp_path / "out").iterdir() if "image" in path.name]


def test_a_compilation_that_is_killed_leaves_no_image(compiled, tmp_path, monkeypatch):
    """Neither half of the new one nor the old one beside the new params."""
    monkeypatch.chdir(tmp_path)
    for name in ("layout.csl", "pe.csl"):
        (tmp_path / name).write_text((compiled / name).read_text())
    assert cslc(["layout.csl", *FLAGS]) == 0
    before = (tmp_path / "out" / "image.msgpack").read_bytes()

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    assert cslc(["layout.csl", *FLAGS]) == 130
    assert not list((tmp_path / "out").glob("*image*"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cslc(["layout.csl", *FLAGS]) == 0
    assert (tmp_path / "out" / "image.msgpack").read_bytes() == before
    assert _image.read_image(tmp_path / "out" / "image.msgpack").rectangle == (2, 1)


def test_ctrl_c_ends_a_long_simulation_at_once(compiled, tmp_path):
    """One line with the place in the script, and the status that shells expect."""
    loop = "var odd: u32 = 1;\nfn forget() void { while (odd != 0) { odd += 2; } }"
    (tmp_path / "layout.csl").write_text(LAYOUT)
    (tmp_path / "pe.csl").write_text(PE.replace("fn forget() void {}", loop))
    (tmp_path / "run.py").write_text(
        RUN + "print('running', flush=True)\nrunner.launch('forget', nonblock=False)\nrunner.stop()\n"
    )
    process = command("cslc", "layout.csl", *FLAGS, folder=tmp_path)
    assert process.communicate(timeout=60) == ("", "")

    process = command("cs_python", "run.py", folder=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    start = time.perf_counter()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (130, "run.py:9: interrupted\n")
    assert time.perf_counter() - start < 5


# --- what cslc refuses ---


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            "var a: [20000]f32;\nexport var b: i16 = 1;\ntask t() void { a[0] = 1.0; }\n"
            "comptime { @bind_local_task(t, @get_local_task_id(9)); }\n",
            "cslc: error: pe.csl needs N bytes, a PE has 49,152; the largest are a 80,000, b 2 bytes; "
            "make arrays smaller, or share the work among more PEs",
        ),
        (
            "fn f(n: u16) u16 {\n  var a = @zeros([9000]u16);\n  if (n == 0) { return a[n]; }\n"
            "  return f(n - 1) * 2;\n}\nvar x: u16 = 3;\n"
            "task t() void { x = f(x); }\ncomptime { @bind_local_task(t, @get_local_task_id(9)); }\n",
            "cslc: error: recursive function f needs a frame of 18,002 bytes, the stack has 4,096; "
            "make its local arrays global",
        ),
    ],
)
def test_a_program_that_fits_no_pe_is_refused(tmp_path, monkeypatch, capsys, program, message):
    """48 KB, 4 of them for a stack where functions call themselves: limits that are found before anything runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layout.csl").write_text('layout { @set_rectangle(1, 1); @set_tile_code(0, 0, "pe.csl"); }\n')
    (tmp_path / "pe.csl").write_text(program)

    assert cslc(["layout.csl", *FLAGS]) == 1
    assert re.sub(r"needs [\d,]+", "needs N", capsys.readouterr().err) == message + "\n"
    assert not (tmp_path / "out").exists()
