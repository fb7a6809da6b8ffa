"""SavedPlans: a plan is found again exactly where nothing that decides it has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn

from openwafer.train import LocalCluster, SavedPlans, Trainer, fit_config, load_recipe
from openwafer.train.optim import SGD
from run_cases import Numbers, same_tensors, squared_error

RECIPE = """
import json
import os
import sys
from functools import partial
from pathlib import Path

from torch import nn

import saved_neighbour
from openwafer.train import LocalCluster, RunConfig
from openwafer.train.optim import SGD
from run_cases import Numbers, squared_error

HERE = Path(__file__).parent

class Model(nn.Module):
    def __init__(self, width, slope):
        super().__init__()
        self.one, self.two, self.slope = nn.Linear(8, width), nn.Linear(width, 4), slope

    def reset_parameters(self):
        pass

    def forward(self, x):
        import saved_late
        return self.two(nn.functional.leaky_relu(self.one(x), self.slope)) * saved_late.FACTOR

def recipe(width: int = 8):
    settings = json.loads((HERE / "settings.json").read_text())
    return RunConfig(
        name="saved", model=partial(Model, width, settings["slope"]), train=Numbers, loss=squared_error,
        optimizer=SGD(lr=0.1), steps=2, cluster=LocalCluster(processes=False, threads=1),
    )
"""


@pytest.fixture(scope="module")
def plan():
    trainer = Trainer(
        nn.Linear(8, 4), optimizer=SGD(lr=0.1), loss=squared_error, cluster=LocalCluster(processes=False)
    )
    return trainer.plan(Numbers())


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the recipe, what it imports and what it reads, to a folder below tmp_path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name="recipes", text=RECIPE):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "saved_recipe.py").write_text(textwrap.dedent(text))
        (folder / "saved_neighbour.py").write_text("SIZE = 3\n")
        (folder / "saved_late.py").write_text("FACTOR = 2.0\n")
        (folder / "settings.json").write_text(json.dumps({"slope": 0.1}))
        return folder

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def find(tmp_path, plan):
    """Ask for a recipe's plan as a run does; returns whether it was found, and the SavedPlans."""

    def find(folder, *arguments, facts="as ever", late=lambda: None, replan=False):
        for name in ("saved_neighbour", "saved_late"):
            sys.modules.pop(name, None)  # as in a new process
        made = []

        def make():
            import saved_late  # noqa: F401 - as the model's forward does

            late()
            made.append(1)
            return plan

        saved = SavedPlans(tmp_path / "compile", folder / "saved_recipe.py", arguments, replan=replan)
        with saved.watching():
            overrides = dict(argument.split("=") for argument in arguments)
            module = load_recipe(folder / "saved_recipe.py", **overrides).model()
        assert saved.plan(module, facts, make) == plan
        return not made, saved

    return find


def test_a_plan_is_found_again_also_for_a_copy_of_the_recipe(write, find):
    """Each job of the appliance has a copy of its own."""
    folder = write()
    assert not find(folder)[0]

    found, saved = find(folder)
    copied, _ = find(write("copy"))

    assert found
    assert copied
    assert saved.note.startswith("Plan from the compile cache, train_")


def _edit(name, old, new):
    def change(folder, monkeypatch):
        file = folder / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return change


CHANGES = {
    "the recipe's code": _edit("saved_recipe.py", "leaky_relu", "threshold"),
    "a neighbour's code": _edit("saved_neighbour.py", "3", "4"),
    "a neighbour that only capturing imports": _edit("saved_late.py", "2.0", "3.0"),
    "a file that the recipe reads": _edit("settings.json", "0.1", "0.2"),
    "the environment": lambda _, monkeypatch: monkeypatch.setenv("MODEL_FLAVOUR", "sweet"),
    "torch": lambda _, monkeypatch: monkeypatch.setattr(torch, "__version__", "1.0"),
    "the machine": lambda _, monkeypatch: monkeypatch.setattr(
        torch.backends.cpu, "get_cpu_capability", lambda: "abacus"
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_never_takes_the_old_plan(what, write, find, monkeypatch):
    """Of anything that capture reads, and the change back finds the old plan again or makes a new one."""
    folder = write()
    find(folder)
    assert find(folder)[0]

    CHANGES[what](folder, monkeypatch)

    assert not find(folder)[0]
    assert find(folder)[0]


def test_other_arguments_and_other_options_have_plans_of_their_own(write, find):
    """Each of them stays."""
    folder = write()
    find(folder)

    assert not find(folder, "width=16")[0]
    assert not find(folder, facts="two systems")[0]

    assert find(folder)[0]
    assert find(folder, "width=16")[0]
    assert find(folder, facts="two systems")[0]


def test_a_file_that_only_capturing_reads_is_compared(write, find, tmp_path):
    """Nobody knows of it before the first capture, so it cannot be part of the name."""
    folder = write()
    table = tmp_path / "table.txt"
    table.write_text("1")
    find(folder, late=table.read_text)
    assert find(folder)[0]

    table.write_text("2")

    assert not find(folder, late=table.read_text)[0]
    assert find(folder)[0]


def test_a_folder_that_the_recipe_lists_is_compared(write, find):
    """A file more there may be another layer."""
    listing = 'sorted(os.listdir(HERE / "layers"))\n    settings ='
    folder = write(text=RECIPE.replace("settings =", listing))
    (folder / "layers").mkdir()
    find(folder)
    assert find(folder)[0]

    (folder / "layers" / "new.json").write_text("{}")

    assert not find(folder)[0]


def test_a_model_that_comes_out_otherwise_from_the_same_code_is_seen(write, find):
    """The clock and random numbers cannot be watched, but what they change in the model can."""
    folder = write(text=RECIPE.replace('settings["slope"]', "__import__('time').time()"))
    find(folder)

    assert not find(folder)[0]


def test_a_recipe_that_is_edited_while_it_is_planned_is_not_kept(write, find):
    """What was captured is the text of before, and the next run has that of after."""
    folder = write()
    find(folder)
    (folder / "settings.json").write_text('{"slope": 0.3}')
    late = folder / "saved_late.py"
    os.utime(late, (time.time() + 10, time.time() + 10))

    assert not find(folder)[0]
    found, saved = find(folder)

    assert not found
    assert saved.note == "Plan not kept: capturing it used saved_late.py, which has changed meanwhile"


@pytest.mark.parametrize("where", ["in the recipe", "in the capture"])
def test_what_asks_another_program_is_captured_every_time(where, write, find, tmp_path):
    """Nothing says whether that program would answer the same again."""

    def ask():
        subprocess.run([sys.executable, "-c", ""], check=True)

    text = RECIPE.replace(
        "settings =", "__import__('subprocess').run([sys.executable, '-c', ''])\n    settings ="
    )
    folder = write(text=text if where == "in the recipe" else RECIPE)
    late = ask if where == "in the capture" else lambda: None

    assert not find(folder, late=late)[0]
    found, saved = find(folder, late=late)

    assert not found
    assert "subprocess.Popen" in saved.note
    assert not (tmp_path / "compile").exists()


@pytest.mark.parametrize("damage", [b"", b"[1]", b"\xff\xfe"])
@pytest.mark.parametrize("file", ["plan.json", "reads.json"])
def test_a_damaged_plan_is_made_anew(file, damage, write, find):
    """A cache only saves time; nothing in it is needed."""
    folder = write()
    _, saved = find(folder)
    (saved.folder / file).write_bytes(damage)

    assert not find(folder)[0]
    assert find(folder)[0]


def test_a_cache_that_cannot_be_written_only_costs_time(write, find, tmp_path):
    """The plan that was made is returned all the same."""
    (tmp_path / "compile").write_text("in the way")

    assert not find(write())[0]


def test_replan_makes_a_new_plan_and_keeps_it(write, find):
    """For who does not trust the cache."""
    folder = write()
    find(folder)

    assert not find(folder, replan=True)[0]
    assert find(folder)[0]


def test_times_are_measured_once_a_day_for_each_question(write, find, monkeypatch):
    """They are of this plan on this machine; another number of threads is another question."""
    saved = find(write())[1]
    counted = []

    def measure():
        counted.append(1)
        return {"body": float(len(counted))}

    first = saved.times(("auto", 1), measure)
    again = saved.times(("auto", 1), measure)
    other = saved.times(("auto", 2), measure)
    later = time.time() + 90_000
    monkeypatch.setattr(time, "time", lambda: later)
    tomorrow = saved.times(("auto", 1), measure)

    assert first == again
    assert (first.seconds, other.seconds, tomorrow.seconds) == ({"body": 1.0}, {"body": 2.0}, {"body": 3.0})


def test_a_run_with_a_saved_plan_computes_the_same(write, tmp_path, monkeypatch):
    """Bit for bit: weights, losses; and capturing does not happen.

    The first run only loads what capturing loads, as each run of a process of its own does at the same moment.
    """
    folder = write()
    runs = []
    for number in range(3):
        if number == 2:
            monkeypatch.setattr("openwafer.train._trainer.capture", _never)
        sys.modules.pop("saved_late", None)
        saved = SavedPlans(tmp_path / "compile", folder / "saved_recipe.py", [])
        with saved.watching():
            config = load_recipe(folder / "saved_recipe.py")
        object.__setattr__(config, "folder", str(tmp_path / f"run-{number}"))
        runs.append((saved, fit_config(config, saved=saved)))

    (_, one), (first, _), (second, two) = runs
    assert second.note == f"Plan from the compile cache, {first.folder.name}"
    assert one.losses == two.losses
    assert same_tensors(one.checkpoint, two.checkpoint)
    assert os.path.samefile(first.folder, second.folder)


def _never(*_, **__):
    raise AssertionError("captured again")
