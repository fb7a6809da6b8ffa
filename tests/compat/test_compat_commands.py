"""`cslc` and `cs_python` as commands: a whole program, start-up, and how errors are shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAYOUT = """
param size: u16;
const memcpy = @import_module("<memcpy/get_params>", .{ .width = 2, .height = 1 });
layout {
  @set_rectangle(2, 1);
  for (@range(i16, 2)) |x| {
    @set_tile_code(x, 0, "pe.csl", .{ .size = size, .memcpy_params = memcpy.get_params(x) });
  }
  @export_name("y", [*]f32, true);
  @export_name("scale", fn(f32)void);
  @export_name("hang", fn()void);
}
"""
PE = """
param size: u16;
param memcpy_params: comptime_struct;
const sys_mod = @import_module("<memcpy/memcpy>", memcpy_params);
var y: [size]f32;
var y_ptr: [*]f32 = &y;
fn scale(by: f32) void {
  for (@range(u16, size)) |i| { y[i] = y[i] * by; }
  sys_mod.unblock_cmd_stream();
}
fn hang() void {}
comptime {
  @export_symbol(y_ptr, "y");
  @export_symbol(scale);
  @export_symbol(hang);
}
"""
RUN = """
import json
import sys
import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import SdkRuntime, MemcpyDataType, MemcpyOrder
size = int(json.load(open("out/out.json"))["params"]["size"])
runner = SdkRuntime("out", cmaddr=None)
y = runner.get_id("y")
runner.load()
runner.run()
data = np.arange(2 * size, dtype=np.float32)
how = dict(streaming=False, data_type=MemcpyDataType.MEMCPY_32BIT, order=MemcpyOrder.ROW_MAJOR, nonblock=False)
runner.memcpy_h2d(y, data, 0, 0, 2, 1, size, **how)
runner.launch(sys.argv[1], *[np.float32(float(word)) for word in sys.argv[2:]], nonblock=False)
runner.memcpy_d2h(data, y, 0, 0, 2, 1, size, **how)
runner.stop()
print(list(map(int, data)))
"""
FLAGS = ("--arch=wse2", "--fabric-dims=9,3", "--fabric-offsets=4,1", "--memcpy", "--channels=1", "-o", "out")


def command(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a console script of that name does."""
    code = f"import sys; from openwafer.compat import {name}; sys.exit({name}())"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A folder with a compiled program and its host script."""
    folder = tmp_path_factory.mktemp("program")
    for name, text in (("layout.csl", LAYOUT), ("pe.csl", PE), ("run.py", RUN)):
        (folder / name).write_text(text)
    done = command("cslc", "layout.csl", "--params=size:3", *FLAGS, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_program_is_compiled_and_run_by_its_own_script(program):
    """The commands, the import names and the machine together, with a NumPy answer."""
    done = command("cs_python", "run.py", "scale", "2", folder=program)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[0, 2, 4, 6, 8, 10]\n"
    assert json.loads((program / "out" / "out.json").read_text())["params"] == {"size": "3"}
    assert (program / "sim.log").read_text().startswith("@0 Architecture is: wse2\n")


def test_an_error_of_ours_ends_with_its_message_and_the_line_of_the_script(program):
    """A user's mistake is no traceback of ours."""
    done = command("cs_python", "run.py", "hang", folder=program)

    assert done.returncode == 1
    assert done.stderr.startswith(
        "run.py:15: error: memcpy_d2h from 'y' cannot go on: it waits for PEs (0, 0) to (1, 0)"
    )
    assert "'hang' was launched last" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_s_own_exception_shows_its_own_traceback(program):
    """Only frames of the script are of use to its author."""
    (program / "own.py").write_text("def inner():\n    assert 1 == 2, 'numbers'\n\n\ninner()\n")

    done = command("cs_python", "own.py", folder=program)

    assert done.returncode == 1
    assert done.stderr.count("File") == 2
    assert done.stderr.endswith("AssertionError: numbers\n")


def test_a_script_sees_its_arguments_its_folder_and_its_status(program):
    """As under Python: argv, imports beside the script, __main__, exit status."""
    (program / "beside.py").write_text("VALUE = 5\n")
    (program / "status.py").write_text(
        "import sys\nfrom beside import VALUE\nif __name__ == '__main__':\n    print(sys.argv, __file__)\n    sys.exit(VALUE)\n"
    )

    done = command("cs_python", "status.py", "--name", "out", folder=program)

    assert (done.returncode, done.stdout) == (5, "['status.py', '--name', 'out'] status.py\n")


def test_words_of_timestamps_shift_as_under_the_numpy_of_the_sdk(program):
    """Public programs put 48 bits together from uint16; NumPy 2 by itself would drop all but the lowest word."""
    (program / "beside.py").write_text("def high(words):\n    return words[2] << 32\n")
    (program / "shift.py").write_text(
        "import numpy as np\nfrom beside import high\n"
        "words = np.array([5, 3, 2], np.uint16)\n"
        "print(words[0] + (words[1] << 16) + high(words), (1 << 4) << 1, list(words << 1))\n"
    )

    done = command("cs_python", "shift.py", folder=program)

    assert done.stderr == ""
    assert done.stdout.startswith(f"{5 + (3 << 16) + (2 << 32)} 32 [np.uint16(10)")
    assert (
        "__openwafer"
        not in command("cs_python", "-c", "import builtins; print(dir(builtins))", folder=program).stdout
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "from cerebras.elf.cs_elf_runner import CSELFRunner",
            "cerebras.elf with its CSELFRunner is the host library of SDK 0.x",
        ),
        (
            "from cerebras.sdk.runtime import runtime_utils\nruntime_utils.convert_input_tensor('', 0)",
            "runtime_utils.convert_input_tensor is of SDK 0.x",
        ),
    ],
)
def test_a_script_of_sdk_0_says_what_took_its_place(program, script, message):
    """The names are gone since 1.0, and what to write now is one sentence."""
    (program / "old.py").write_text(script + "\n")

    done = command("cs_python", "old.py", folder=program)

    assert done.returncode == 1
    assert done.stderr.startswith(f"old.py:{script.count(chr(10)) + 1}: error: {message}")
    assert "Traceback" not in done.stderr


def test_the_import_names_exist_only_inside_cs_python(program):
    """Nothing shadows a real installation."""
    names = (
        "cerebras.sdk.runtime.sdkruntimepybind, cerebras.sdk.sdk_utils, cerebras.sdk.debug.debug_util, "
        "cerebras.geometry.geometry, cerebras.sdk.client, cerebras.appliance.pb.sdk.sdk_common_pb2, "
        "cerebras.sdk.runtime.runtime_utils"
    )
    code = f"import {names}; from cerebras.sdk import sdk_utils; from cerebras.appliance import logger"
    inside = command("cs_python", "-c", code, folder=program)
    outside = subprocess.run(
        [sys.executable, "-c", "import openwafer.compat, cerebras.sdk.runtime.sdkruntimepybind"],
        cwd=program,
        capture_output=True,
        text=True,
    )

    assert (inside.returncode, inside.stderr) == (0, "")
    assert "No module named" in outside.stderr


def test_the_import_names_stand_beside_a_client_that_was_loaded_first(tmp_path, monkeypatch):
    """The inference client's package is named `cerebras` as well; a process may use both, in either order."""
    (tmp_path / "cerebras" / "cloud").mkdir(parents=True)
    (tmp_path / "cerebras" / "cloud" / "__init__.py").write_text("")
    code = (
        "import sys\n"
        "import cerebras.cloud\n"
        "from openwafer.compat import cs_python\n"
        "assert cs_python(['-c', 'import cerebras.sdk.runtime.sdkruntimepybind, cerebras.cloud']) == 0\n"
        "assert cs_python(['-c', 'from cerebras.geometry import geometry']) == 0\n"
        "assert not [name for name in sys.modules if name.startswith(('cerebras.sdk', 'cerebras.geometry'))]\n"
        "import cerebras.sdk\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stderr.endswith("ModuleNotFoundError: No module named 'cerebras.sdk'\n"), done.stderr


def test_the_commands_start_without_torch(program):
    """Torch takes seconds to import, and a matrix of programs starts hundreds of these commands."""
    code = "import sys, cerebras.sdk.runtime.sdkruntimepybind; sys.exit('torch' in sys.modules)"

    assert command("cs_python", "-c", code, folder=program).returncode == 0
    code = "import sys; from openwafer.compat import cslc; cslc(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_errors_in_a_program_begin_with_their_place(program):
    """As compilers' messages do, so that editors jump there."""
    (program / "wrong.csl").write_text("layout {\n  @set_rectangle(1, 1)\n}\n")

    done = command("cslc", "wrong.csl", *FLAGS, folder=program)

    assert done.returncode == 1
    assert done.stderr.startswith("wrong.csl:2:23: error: ")
    assert command("cslc", "none.csl", *FLAGS, folder=program).stderr.startswith("cslc: error: none.csl")


def test_the_appliance_s_compiler_and_runtime_work_here(program):
    """Scripts for the appliance compile and run with the same two classes."""
    (program / "appliance.py").write_text(
        "from cerebras.sdk.client import SdkCompiler, SdkRuntime\n"
        "import numpy as np\n"
        "with SdkCompiler(disable_version_check=True) as compiler:\n"
        f"    path = compiler.compile('.', 'layout.csl', '{' '.join(FLAGS[:-1])} latest --params=size:1', 'made')\n"
        "with SdkRuntime(path, simulator=True) as runner:\n"
        "    runner.launch('scale', np.float32(1), nonblock=False)\n"
        "print(path)\n"
    )

    done = command("cs_python", "appliance.py", folder=program)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"made{os.sep}latest\n"


def test_wafer_csl_compiles_and_runs_as_well(program):
    """One command for those who have no scripts to keep."""
    wafer = [sys.executable, "-P", "-c", "from openwafer.cli import main; main()", "csl"]
    calls = (["compile", "layout.csl", "--params=size:2", *FLAGS], ["run", "run.py", "scale", "3"])

    done = [subprocess.run([*wafer, *call], cwd=program, capture_output=True, text=True) for call in calls]

    assert [one.returncode for one in done] == [0, 0], done[-1].stderr
    assert done[1].stdout == "[0, 3, 6, 9]\n"
