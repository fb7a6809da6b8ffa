"""The same program takes the same cycles and leaves the same bits, whatever the order, the process and its hash seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from program_cases import HERE, Case, cases
from program_run import Run

BUSY = [
    case for case in cases() if case.folder.name in ("collectives", "tally", "transpose", "switch_gather")
]
"""Those where many PEs meet."""

CHILD = """
import hashlib, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from program_cases import cases
import msgspec
found = {}
for case in cases():
    if str(case) in sys.argv[2:]:
        left = case.run(Path(".")).left()
        image = hashlib.sha256(msgspec.msgpack.encode(case.image)).hexdigest()
        found[str(case)] = image, left["cycle"], hashlib.sha256(repr(left).encode()).hexdigest()
print(json.dumps(found))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes its sim.log where it is."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", BUSY, ids=str)
def test_neither_the_order_of_tiles_nor_another_machine_changes_a_cycle(case: Case, tmp_path: Path) -> None:
    """Tiles configured backwards, on a machine that runs while another one of the same process stands still."""
    waiting = Run(case.image, tmp_path / "waiting", case.params)
    first = case.run(tmp_path / "first").left()
    turned = msgspec.structs.replace(case.image, tiles=case.image.tiles[::-1])
    second = Run(turned, tmp_path / "second", case.params)
    for run in (second, waiting):
        case.check(run, np.random.default_rng(7))
        run.stop()

    assert second.left() == first
    assert waiting.left() == first


def test_two_processes_compile_the_same_image_and_take_the_same_cycles(tmp_path: Path) -> None:
    """Sets and dicts of another hash seed have another order; nothing may depend on it."""
    names = [str(case) for case in BUSY[::4]]
    assert len(names) >= 4
    found = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(HERE), *names],
            cwd=folder,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))

    assert list(found[0]) == names
    assert found[0] == found[1]
