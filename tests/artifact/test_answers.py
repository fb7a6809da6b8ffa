"""Answers: what code said is said again exactly where nothing that decided it has changed."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openwafer.artifact import Answers, _sources

CODE = """
import json
from pathlib import Path

import answers_neighbour
import answers_package
try:
    import answers_optional
except ImportError:
    answers_optional = None

HERE = Path(__file__).resolve().parent

def answer():
    size = json.loads((HERE / "settings.json").read_text())
    more = (HERE / "more").exists()
    return [size, more, answers_neighbour.SIZE, answers_package.SIZE, answers_optional is not None]
"""
Ask = Callable[..., tuple[object, bool]]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with code that reads a file, asks for another, and imports a module beside it and one that is installed."""
    folder, installed = tmp_path / "base", tmp_path / "dist-packages"
    folder.mkdir()
    installed.mkdir()
    (folder / "answers_code.py").write_text(CODE)
    (folder / "answers_neighbour.py").write_text("SIZE = 3\n")
    (folder / "settings.json").write_text("8")
    (installed / "answers_package.py").write_text("SIZE = 5\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path, str(installed)])
    monkeypatch.chdir(tmp_path)
    _sources._installed_roots.cache_clear()
    _let_go(folder)
    yield folder
    _sources._installed_roots.cache_clear()
    _forget()


def _let_go(folder: Path) -> None:
    """As if everything had been written a while ago: what is written while code runs is not kept."""
    for file in [*folder.rglob("*"), *folder.parent.rglob("*.py")]:
        os.utime(file, (time.time() - 100, time.time() - 100))


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith("answers_")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def ask(base: Path, tmp_path: Path) -> Ask:
    """Ask as a new process does; returns the answer, and whether it was known."""

    def ask(question: object = "?") -> tuple[object, bool]:
        _forget()
        answers = Answers(tmp_path / "kept", question, base)
        known = answers.find(list)
        if known is not None:
            return known, True
        with answers.watching():
            found = importlib.import_module("answers_code").answer()
        answers.keep(found)
        return found, False

    return ask


def test_a_question_is_answered_once(ask: Ask) -> None:
    """Each question for itself."""
    assert ask() == ([8, False, 3, 5, False], False)
    assert ask() == ([8, False, 3, 5, False], True)
    assert ask("another") == ([8, False, 3, 5, False], False)


def _write(name: str, text: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def change(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = base / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        _let_go(base)

    return change


CHANGES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], None], list[object]]] = {
    "the code": (_write("answers_code.py", CODE.replace("more, ", "None, ")), [8, None, 3, 5, False]),
    "a module beside it": (_write("answers_neighbour.py", "SIZE = 4\n"), [8, False, 4, 5, False]),
    "a file that it reads": (_write("settings.json", "9"), [9, False, 3, 5, False]),
    "a file that it only asks for": (_write("more", ""), [8, True, 3, 5, False]),
    "a folder that it only asks for": (
        lambda base, _: (base / "more").mkdir(),
        [8, True, 3, 5, False],
    ),
    "an installed package": (
        _write("../dist-packages/answers_package.py", "SIZE = 66\n"),
        [8, False, 3, 66, False],
    ),
    "a module that was not there": (_write("answers_optional.py", ""), [8, False, 3, 5, True]),
    "a module before another of its name": (
        _write("answers_package/__init__.py", "SIZE = 7\n"),
        [8, False, 3, 7, False],
    ),
    "the environment": (
        lambda _, monkeypatch: monkeypatch.setenv("ANSWERS_FLAVOUR", "sweet"),
        [8, False, 3, 5, False],
    ),
    "the working folder": (lambda base, monkeypatch: monkeypatch.chdir(base), [8, False, 3, 5, False]),
    "Python": (lambda _, monkeypatch: monkeypatch.setattr(sys, "version", "4.0"), [8, False, 3, 5, False]),
    "the machine": (
        lambda _, monkeypatch: monkeypatch.setattr(os, "cpu_count", lambda: 1000),
        [8, False, 3, 5, False],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_never_answered_as_before(
    what: str, base: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of anything that decides the answer."""
    ask()
    assert ask()[1]
    change, expected = CHANGES[what]

    change(base, monkeypatch)

    assert ask() == (expected, False)
    assert ask() == (expected, True)


def test_what_says_nothing_of_the_code_changes_nothing(base: Path, ask: Ask, tmp_path: Path) -> None:
    """A folder of results beside the code, as runs leave it, and the terminal."""
    ask()
    (base / "runs").mkdir()
    (base / "notes.txt").write_text("it trains")
    (tmp_path / "other.txt").write_text("")

    assert ask()[1]


@pytest.mark.parametrize(
    "chance",
    [
        "__import__('time').time()",
        "__import__('time').strftime('%H')",
        "__import__('datetime').datetime.now().year",
        "__import__('datetime').date.today().year",
        "__import__('random').randint(0, 0)",
        "__import__('uuid').uuid4().version",
        "__import__('subprocess').run(['true']).returncode",
        "open('/proc/self/stat').close()",
        "Path('/dev/zero').open('rb').close()",
    ],
)
def test_what_nobody_can_confirm_is_asked_every_time(chance: str, base: Path, ask: Ask) -> None:
    """A run's name may carry the date."""
    (base / "answers_code.py").write_text(CODE.replace("more = ", f"{chance}; more = "))
    _let_go(base)
    ask()

    assert not ask()[1]


def test_the_clock_in_an_installed_package_counts_only_when_the_code_asks_for_it(
    base: Path, ask: Ask
) -> None:
    """Many look at it once while they are imported."""
    package = base.parent / "dist-packages" / "answers_package.py"
    package.write_text("import time\nSTART = time.time()\nSIZE = 5\nnow = lambda: time.time()\n")
    _let_go(base)
    ask()
    assert ask()[1]

    (base / "answers_code.py").write_text(CODE.replace("more = ", "answers_package.now(); more = "))
    _let_go(base)
    ask()

    assert not ask()[1]


def test_code_that_changes_while_it_runs_is_not_kept(base: Path, ask: Ask) -> None:
    """Nobody knows which text was loaded."""
    later = time.time() + 10
    os.utime(base / "answers_neighbour.py", (later, later))
    ask()

    assert not ask()[1]


@pytest.mark.parametrize("damage", [b"", b"[1]", b"\xff\xfe"])
def test_a_damaged_answer_is_asked_for_again(damage: bytes, ask: Ask, tmp_path: Path) -> None:
    """What is kept only saves time."""
    ask()
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(damage)

    assert not ask()[1]
    assert ask()[1]


def test_a_folder_that_cannot_be_written_only_costs_time(ask: Ask, tmp_path: Path) -> None:
    """The answer comes all the same."""
    (tmp_path / "kept").write_text("in the way")

    assert ask() == ask() == ([8, False, 3, 5, False], False)


def test_the_answers_used_longest_ago_go(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others stay, however old."""
    monkeypatch.setattr("openwafer.artifact._answers.MOST", 2)
    for age, question in ((30, "first"), (20, "second")):
        before = set((tmp_path / "kept").glob("*"))
        ask(question)
        (made,) = set((tmp_path / "kept").glob("*")) - before
        os.utime(made, (time.time() - age, time.time() - age))
    assert ask("first")[1]

    ask("third")

    assert [ask(question)[1] for question in ("first", "third", "second")] == [True, True, False]
