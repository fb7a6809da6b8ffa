"""load_recipe: arguments as typed, and errors that show the user's file."""

from __future__ import annotations

import pickle
import sys
import textwrap

import pytest
from recipe_cases import FOLDER, load

from openwafer.base import InputError
from openwafer.train._config import LocalCluster, load_recipe

HEAD = """
from __future__ import annotations
from pathlib import Path
from typing import Any, Literal
from torch import nn
from openwafer.train._config import LocalCluster, RunConfig
from openwafer.train.data import from_dataset
from openwafer.train.optim import AdamW

def config(**changes):
    return RunConfig(**{"name": "x", "model": lambda: nn.Linear(1, 1), "train": lambda: from_dataset([1.0], 1),
                        "optimizer": AdamW(), "steps": 3, **changes})
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe file below HEAD; modules and sys.path are put back afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(text, name="my_recipe.py"):
        path = tmp_path / name
        path.write_text(HEAD + textwrap.dedent(text))
        return path

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", "") and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


TYPED = """
seen = None
def recipe(steps: int = 3, lr: float = 0.1, on: bool = False, clip: float | None = None, folder: Path | None = None,
           kind: Literal["sgd", "adam"] = "sgd", name: str = "x", data: str | None = "y", free=None,
           cluster: LocalCluster | None = None,
           shape: tuple[int, ...] = ()):
    global seen
    seen = dict(locals())
    return config(steps=steps)
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("steps=50", 50),
        ("lr=1e-4", 1e-4),
        ("lr=2", 2.0),
        ("on=true", True),
        ("on=False", False),
        ("on=1", True),
        ("clip=1.5", 1.5),
        ("clip=none", None),
        ("kind=adam", "adam"),
        ("data=none", None),
        ("data=nothing", "nothing"),
        ("name=5", "5"),
        ("name=none", "none"),
        ("free=7", "7"),
    ],
)
def test_text_becomes_what_the_annotation_says(write, text, value):
    """The command line has only text; the recipe's signature says what it means."""
    path = write(TYPED)
    name, given = text.split("=")

    load_recipe(path, **{name: given})

    found = sys.modules["my_recipe"].seen[name]
    assert found == value
    assert type(found) is type(value)


def test_paths_and_objects_are_passed_on(write, tmp_path):
    """From Python, anything may be given; a path may be typed."""
    path, cluster = write(TYPED), LocalCluster(systems=2)

    load_recipe(str(path), folder=str(tmp_path), cluster=cluster, shape=(1, 2), steps=4)

    seen = sys.modules["my_recipe"].seen
    assert (seen["folder"], seen["cluster"], seen["shape"], seen["steps"]) == (tmp_path, cluster, (1, 2), 4)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"steps": "1.5"}, "steps must be a whole number, got '1.5'"),
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"on": "perhaps"}, "on must be true or false, got 'perhaps'"),
        ({"clip": "x"}, "clip must be a number or none, got 'x'"),
        ({"kind": "adm"}, "kind must be 'sgd' or 'adam', got 'adm'; did you mean 'adam'?"),
        ({"name": 5}, "name must be text, got 5"),
        ({"cluster": "big"}, "cluster must be LocalCluster or none, got 'big'"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(write, given, text):
    """Before the recipe runs on it."""
    path = write(TYPED)

    with pytest.raises(InputError) as error:
        load_recipe(path, **given)

    assert str(error.value).startswith(f"{path}: {text}")


def test_an_unknown_argument_shows_the_nearest_and_all_of_them(write):
    """With their defaults, so that no one has to open the file."""
    path = write("def recipe(steps: int = 3, size='small', *, data): return config()")

    with pytest.raises(InputError) as error:
        load_recipe(path, step="5", data="x")

    assert str(error.value) == (
        f"{path}: the recipe has no argument 'step'; did you mean 'steps'? It takes steps=3, size='small', data"
    )
    with pytest.raises(InputError, match="no argument 'colour'; it takes steps=3"):
        load_recipe(path, colour="red", data="x")
    with pytest.raises(InputError, match=r"the recipe needs data=\.\.\.; it takes steps=3"):
        load_recipe(path)


def test_a_recipe_may_take_any_argument(write):
    """`**rest` is the author's choice."""
    path = write("def recipe(**rest): return config(name=rest['anything'])")

    assert load_recipe(path, anything="goes").name == "goes"


def test_a_missing_file_shows_near_names():
    """Typing errors and forgotten endings are the usual reasons."""
    with pytest.raises(InputError) as error:
        load_recipe(FOLDER / "ltama.py")
    assert str(error.value) == f"{FOLDER / 'ltama.py'} is not there; did you mean {FOLDER / 'llama.py'}?"

    with pytest.raises(InputError, match=r"gpt is not there; did you mean .*gpt\.py\?"):
        load_recipe(FOLDER / "gpt")
    with pytest.raises(InputError, match=r"qqqqqq\.py is not there; .* holds bert\.py, gpt\.py"):
        load_recipe(FOLDER / "qqqqqq.py")
    with pytest.raises(InputError, match=r"is a folder, not a recipe; .* holds bert\.py"):
        load_recipe(FOLDER)
    with pytest.raises(InputError, match="nor is the folder"):
        load_recipe(FOLDER / "nowhere" / "gpt.py")


def test_a_file_of_another_kind_is_not_run(tmp_path):
    """A data file given by mistake."""
    (tmp_path / "data.bin").write_bytes(b"\0")

    with pytest.raises(InputError, match=r"data\.bin is not a \.py file; .* holds no \.py file"):
        load_recipe(tmp_path / "data.bin")


def test_a_file_without_the_function_shows_what_it_has(write):
    """The function may just have another name."""
    path = write("def train(): return config()")

    with pytest.raises(InputError) as error:
        load_recipe(path)

    assert str(error.value) == (
        f"{path} has no function `recipe` (it has config, train); add `def recipe(...) -> RunConfig:`"
    )


def test_a_recipe_must_return_a_config(write):
    """Forgetting `return` is easy."""
    with pytest.raises(InputError, match="recipe returned None, but it must return a RunConfig"):
        load_recipe(write("def recipe(): config()"))


@pytest.mark.parametrize(
    ("text", "line", "shown", "reason"),
    [
        (
            "def recipe():\n    depth = 3\n    return config(steps=depth / 0)\n",
            3,
            "return config(steps=depth / 0)",
            "ZeroDivisionError: division by zero",
        ),
        (
            "def width():\n    return {}['w']\n\ndef recipe():\n    return config(steps=width())\n",
            2,
            "return {}['w']",
            "KeyError: 'w'",
        ),
        (
            "import torhc\ndef recipe(): ...\n",
            1,
            "import torhc",
            "ModuleNotFoundError: No module named 'torhc'",
        ),
        ("def recipe(:\n    pass\n", 1, "def recipe(:", "SyntaxError: "),
        ("def recipe(size: Missing = 1): ...\n", 0, "", "NameError: name 'Missing' is not defined"),
        (
            "import json\ndef recipe():\n    json.loads('[')\n",
            3,
            "json.loads('[')",
            "JSONDecodeError: Expecting value",
        ),
    ],
)
def test_an_exception_inside_shows_the_users_line(write, text, line, shown, reason):
    """The last line of the user's own file, whether it ran while importing, in the function or below it."""
    path = write("")
    head = len(path.read_text().splitlines())
    path.write_text(path.read_text() + text)

    with pytest.raises(InputError) as error:
        load_recipe(path)

    found = str(error.value)
    assert reason in found
    assert "Traceback" not in found
    assert found.startswith(
        f"{path}:{head + line}: the recipe failed:" if line else f"{path}: the recipe failed:"
    )
    assert shown in found


def test_an_error_that_says_what_to_do_stays_as_it_is(write):
    """A WaferError is already in the user's terms."""
    with pytest.raises(InputError) as error:
        load_recipe(write("def recipe(): return config(steps=0)"))

    assert str(error.value) == "RunConfig: steps is 0, but it must be a whole number, at least 1"


def test_an_edited_recipe_is_read_anew(write):
    """In a notebook or a test, the file changes between two runs."""
    assert load_recipe(write("def recipe(): return config(name='one')")).name == "one"
    assert load_recipe(write("def recipe(): return config(name='other', steps=77)")).name == "other"


def test_a_recipe_imports_its_neighbours_and_its_classes_can_be_pickled(write):
    """As under `python my_recipe.py`; processes unpickle data sets that the recipe defines."""
    write("class Data:\n    pass\n", name="my_neighbour.py")
    path = write(
        "from my_neighbour import Data\nclass Own:\n    pass\ndef recipe(): return config(train=Own)\n"
    )

    factory = load_recipe(path).train

    assert pickle.loads(pickle.dumps(factory)) is factory
    assert sys.modules["my_recipe"].Data.__module__ == "my_neighbour"


def test_a_recipe_does_not_replace_a_module(write):
    """A recipe called random.py would take the place of Python's random in this process."""
    import random

    with pytest.raises(InputError, match="a Python module is called 'random' already"):
        load_recipe(write("def recipe(): return config()", name="random.py"))

    assert sys.modules["random"] is random


def test_a_failed_import_leaves_no_module(write):
    """The next attempt, of the mended file, begins anew."""
    with pytest.raises(InputError, match="ValueError: no"):
        load_recipe(write("raise ValueError('no')"))

    assert "my_recipe" not in sys.modules


@pytest.mark.parametrize("name", ["gpt", "llama", "bert", "vit", "mnist"])
def test_our_recipes_refuse_an_unknown_size_with_the_list(name):
    """The first thing that people try to change."""
    with pytest.raises(
        InputError, match="there is no size 'enormous' of this recipe; take one of tiny, small"
    ):
        load(name, size="enormous")
