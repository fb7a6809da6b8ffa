"""Compiled layouts that are found again: the map of their ports, artifacts by their folder, ports that go to files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from host_cases import FakeMachine, image, layout_ports, running

from openwafer.base import InputError, StorageError
from openwafer.host import SdkCompileArtifacts, SdkLayout, SdkRuntime, write_artifacts


def compiled(folder):
    write_artifacts(image(1, 1, memcpy=False, ports=layout_ports(), streams={}), folder)


def started(artifacts):
    runtime = SdkRuntime(artifacts, memcpy_required=False, machine=FakeMachine)
    runtime.load()
    runtime.run()
    return runtime


def test_a_program_is_found_again_by_the_folder_above_it_and_its_port_map(tmp_path):
    """Public programs compile to `name/out`, and later run SdkCompileArtifacts(name).add_port_mapping(map)."""
    compiled(tmp_path / "name" / "out")
    artifacts = SdkCompileArtifacts(tmp_path / "name").add_port_mapping(
        tmp_path / "name/out/out_port_map.json"
    )

    runtime = started(artifacts)
    result = np.zeros(3, np.uint32)
    runtime.send("in", np.arange(3, dtype=np.uint32), nonblock=True)
    runtime.receive("out", result, 3)
    runtime.stop()

    assert list(result) == [1, 2, 3]


def test_a_port_map_holds_the_ports_as_programs_read_them(tmp_path):
    """They pick buses by port_name."""
    compiled(tmp_path)

    assert json.loads((tmp_path / "out_port_map.json").read_text()) == {
        "buses": [
            {"port_name": "in", "direction": "in", "color": 2, "x": 0, "y": 0},
            {"port_name": "out", "direction": "out", "color": 3, "x": 0, "y": 0},
        ]
    }


def test_a_part_of_a_port_map_leaves_the_other_ports_alone(tmp_path):
    """A program gives each of its workers a map with the worker's own buses."""
    compiled(tmp_path)
    part = tmp_path / "part.json"
    part.write_text('{"buses": [{"port_name": "in"}]}')

    runtime = started(SdkCompileArtifacts(tmp_path).add_port_mapping(part))

    with pytest.raises(InputError, match="no port 'out'; there are in"):
        runtime.receive("out", np.zeros(1, np.uint32), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file or directory; SdkLayout.compile writes one"),
        ("{", "is no JSON"),
        ("[]", "has another form than"),
        (
            '{"buses": [{"port_name": "x"}]}',
            "has a port 'x', the program has in, out; compile the layout again",
        ),
    ],
)
def test_a_wrong_port_map_is_an_error(tmp_path, text, message):
    """It names the file and what belongs there."""
    compiled(tmp_path)
    path = tmp_path / "map.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(InputError, match=message):
        SdkRuntime(SdkCompileArtifacts(tmp_path).add_port_mapping(path), machine=FakeMachine)


@pytest.mark.parametrize("nonblock", [False, True])
def test_a_port_can_be_written_to_a_file(tmp_path, nonblock):
    """How many words come is not said: it ends when the program rests, for a nonblocking call at the latest in stop."""
    runtime, _ = running(tmp_path, image(1, 1, memcpy=False, ports=layout_ports(), streams={}))
    runtime.send("in", np.arange(9, dtype=np.uint32), nonblock=True)

    task = runtime.receive_tofile("out", tmp_path / "words.bin", nonblock=nonblock)

    assert runtime.is_task_done(task) is not nonblock
    runtime.stop()
    assert task.done
    assert list(np.fromfile(tmp_path / "words.bin", "<u4")) == list(range(1, 10))


def test_waiting_for_a_port_file_ends_it(tmp_path):
    """task_wait lets the program come to rest; what follows goes on."""
    runtime, _ = running(tmp_path, image(1, 1, memcpy=False, ports=layout_ports(), streams={}))
    task = runtime.receive_tofile("out", tmp_path / "words.bin", nonblock=True)
    runtime.send("in", np.arange(2, dtype=np.uint32))

    runtime.task_wait(task)

    assert list(np.fromfile(tmp_path / "words.bin", "<u4")) == [1, 2]
    later = np.zeros(1, np.uint32)
    runtime.send("in", np.array([6], np.uint32), nonblock=True)
    runtime.receive("out", later, 1)
    assert list(later) == [7]
    runtime.stop()


def test_a_port_file_that_cannot_be_written_is_an_error(tmp_path):
    """Before anything runs."""
    runtime, _ = running(tmp_path, image(1, 1, memcpy=False, ports=layout_ports(), streams={}))

    with pytest.raises(StorageError, match=r"cannot be written: .*; choose another file"):
        runtime.receive_tofile("out", tmp_path / "none" / "words.bin")


def test_what_has_no_published_form_says_what_to_use(tmp_path):
    """Fabric files and ELF cores belong to the vendor's tools."""
    runtime, _ = running(tmp_path)

    with pytest.raises(InputError, match=r"fabric file fabric\.json.*SdkLayout\(SdkTarget\.WSE3\)"):
        SdkLayout("fabric.json")
    with pytest.raises(InputError, match="dump_core writes the memory"):
        runtime.dump_elf_core("core.elf")
