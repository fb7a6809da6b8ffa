"""The documents are true: their code runs, their commands parse, their links and names lead somewhere."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

import openwafer.appliance._users
import openwafer.appliance.client
import openwafer.appliance.ray
import openwafer.appliance.web
import openwafer.cli._cluster
import openwafer.cluster
import openwafer.serve.bench
import openwafer.serve.client
import openwafer.serve.service
import openwafer.train
from openwafer.appliance import Job, JobSpec
from openwafer.appliance.client import Contact
from openwafer.appliance.web import Cluster
from openwafer.base import InputError
from openwafer.cli._app import app
from openwafer.serve.service import ServiceConfig
from openwafer.train import LocalCluster, RunConfig, fit_config, load_recipe

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {path.relative_to(ROOT).as_posix(): path.read_text() for path in DOCUMENTS}
README, ARCHITECTURE, RUNNING = TEXT["README.md"], TEXT["ARCHITECTURE.md"], TEXT["docs/running.md"]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
IMAGE_BYTES = 200_000

RUN_ALL = """
import runpy, sys
for script in sys.argv[1:]:
    print("running", script, flush=True)
    runpy.run_path(script, run_name="__main__")
"""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(text))


def shell_lines(command: str) -> list[str]:
    """Every whole command line in the documents, in blocks and in running text."""
    found: dict[str, None] = {}
    for text in TEXT.values():
        lines = [
            line.partition(" #")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()
        ]
        found.update(dict.fromkeys(line for line in [*lines, *spans(text)] if line.startswith(f"{command} ")))
    return list(found)


WAFER_LINES = [line for line in shell_lines("wafer") if "COMMAND" not in line]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it after `wafer train recipes/gpt.py`, of the smallest size."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for model in ("models/llama", "FOLDER"):
        (folder / model).mkdir(parents=True)
    config = load_recipe(ROOT / "recipes" / "gpt.py", size="tiny", steps=2)
    config = dataclasses.replace(config, folder=str(folder / "runs" / "gpt-small"))
    fit_config(config, console=Console(file=io.StringIO()))
    return folder


# --- code -------------------------------------------------------------------------------------------------


def test_the_documents_python_and_the_examples_run(tmp_path):
    """As they stand, in an empty folder beside the recipes: what a reader copies must work the first time.

    Two interpreters, so that PyTorch and transformers are imported once and not by every script.
    """
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    written = []
    for name, text in TEXT.items():
        for number, block in enumerate(blocks(text, "python")):
            written.append(tmp_path / f"{Path(name).stem.lower()}_{number}.py")
            written[-1].write_text(block)
    assert len(written) >= 3
    scripts: dict[str, list[Path]] = {"plain": [], "transformers": []}
    for script in [*written, *EXAMPLES]:
        scripts["transformers" if "from transformers" in script.read_text() else "plain"].append(script)
    assert all(scripts.values())

    running = {
        name: subprocess.Popen(
            [sys.executable, "-c", RUN_ALL, *map(str, paths)],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, paths in scripts.items()
    }
    output = {name: process.communicate(timeout=250)[0] for name, process in running.items()}

    for name, process in running.items():
        assert process.returncode == 0, f"{name}:\n{output[name][-3000:]}"
    assert (tmp_path / "trained" / "model.safetensors").is_file()
    start, end = map(float, re.findall(r"^([\d.]+) -> ([\d.]+)$", output["plain"], re.MULTILINE)[0])
    assert end < start
    accuracy = float(re.findall(r"accuracy on new points: ([\d.]+)", output["plain"])[0])
    assert accuracy > 0.9
    assert "goes on as [10, 11, 12, 13, 14, 15, 16, 17]" in output["transformers"]


# --- commands ---------------------------------------------------------------------------------------------


def stand_in_for_an_appliance(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[int]:
    """One that takes everything and has one job, asked and brought up without a process.

    Returns a list that gets the systems of every cluster that is brought up and of every job that is submitted.
    """
    systems: list[int] = []

    def submit(spec: JobSpec, *_: object) -> Job:
        systems.append(spec.systems)
        return job

    def configure(**fields: object) -> SimpleNamespace:
        systems.append(fields.get("systems", 1))
        return SimpleNamespace(**fields)

    job = Job(
        id="wsjob-a",
        spec=JobSpec(kind="train", command=("true",)),
        state="succeeded",
        user="ann",
        priority=299,
        created=0.0,
        order=0.0,
    )
    cluster = Cluster(version="", user="ann", admin=True, resources=[], systems=[], states={}, memoryx="ram")
    answers: dict[str, object] = {
        "url": "http://127.0.0.1:1",
        "jobs": lambda **_: [job],
        "cluster": lambda: cluster,
    }
    answers["submit"] = submit
    for name in ("job", "cancel", "label", "prioritise"):
        answers[name] = lambda *args, **_: job
    for name, answer in (("down", None), ("system", cluster), ("log", []), ("follow_log", []), ("export", 1)):
        answers[name] = lambda *args, answer=answer, **_: answer
    node = SimpleNamespace(queue=list, drain=list)
    service = SimpleNamespace(url="http://127.0.0.1:1", run=lambda ready, say: 0)
    users = SimpleNamespace(who=lambda token: None, add=lambda *args, **_: "token", remove=lambda name: None)
    contact = Contact(url="http://127.0.0.1:1", token="token")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    (folder / "state" / "openwafer").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(Contact, "find", lambda *args: contact)
    monkeypatch.setattr(
        openwafer.appliance.client, "Client", lambda *args: nullcontext(SimpleNamespace(**answers))
    )
    monkeypatch.setattr(openwafer.appliance, "NodeConfig", configure)
    monkeypatch.setattr(openwafer.appliance, "ManagementNode", lambda *args, **_: nullcontext(node))
    monkeypatch.setattr(openwafer.appliance.web, "Service", lambda *args: service)
    over_hosts = SimpleNamespace(systems=lambda: 1, asks_for_token=True)
    monkeypatch.setattr(openwafer.appliance.ray, "RayEngine", lambda *args: nullcontext(over_hosts))
    monkeypatch.setattr(openwafer.appliance._users, "Users", lambda *args: users)
    monkeypatch.setattr(openwafer.cli._cluster, "_own_token", lambda *args: "token")
    monkeypatch.setattr(openwafer.cli._cluster, "_client_door", lambda *args: None)
    return systems


@pytest.mark.parametrize("line", WAFER_LINES)
def test_a_wafer_command_line_parses(line, ran, monkeypatch):
    """The real command with its real options and recipe; only the work behind it is left out."""
    asked: list[RunConfig] = []
    served: list[ServiceConfig] = []

    def fit(config: RunConfig, **_: object) -> SimpleNamespace:
        asked.append(config)
        return SimpleNamespace(interrupted=False)

    def plan(config: RunConfig, **_: object) -> None:
        asked.append(config)
        raise SystemExit(0)

    monkeypatch.setattr(openwafer.train, "fit_config", fit)
    monkeypatch.setattr(openwafer.train, "plan_config", plan)
    monkeypatch.setattr(openwafer.cluster, "read_token", lambda path: b"")
    monkeypatch.setattr(openwafer.cluster, "serve_host", lambda *args, **kwargs: None)

    def make_service(config: ServiceConfig, *_: object) -> SimpleNamespace:
        served.append(config)
        return SimpleNamespace(run=lambda: 0, in_background=lambda: nullcontext("http://127.0.0.1:1"))

    monkeypatch.setattr(openwafer.serve.service, "Service", make_service)
    monkeypatch.setattr(
        openwafer.serve.service, "serve_apart", lambda config: nullcontext("http://127.0.0.1:1")
    )
    monkeypatch.setattr(openwafer.serve.client, "find_model", lambda *args: "model")
    measured = SimpleNamespace(levels=[], remarks=list, failure="", interrupted=False, save=lambda path: None)
    monkeypatch.setattr(openwafer.serve.bench, "measure_load", lambda *args, **kwargs: measured)
    shared = stand_in_for_an_appliance(monkeypatch, ran)
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.chdir(ran)
    words = shlex.split(line)[1:]
    if words[-1].startswith("--verify") and len(words) == 2:
        words.append("runs/gpt-small")  # named without its argument in running text
    elif words[-1] in ("--client-python", "add", "export"):
        words.append("name")  # so are these
    elif len(words) == 1 or (words[0] in ("csl", "fabric") and len(words) == 2):
        words.append("--help")

    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, f"{line}: {result.output}{result.exception}"
    if "--systems" in words:
        systems = (
            *(config.systems for config in served),
            *(config.cluster.systems for config in asked),
            *shared,
        )[0]
        assert systems == int(words[words.index("--systems") + 1])
    if len(words) > 1 and words[0] in ("train", "plan") and "--help" not in words:
        assert len(asked) == 1


def test_the_commands_of_the_readme_are_among_those_checked():
    """A change of the documents' form must not leave this file checking nothing."""
    assert {"wafer train recipes/gpt.py", "wafer plan recipes/llama.py", "wafer machine WSE-3"} <= set(
        WAFER_LINES
    )
    assert len(WAFER_LINES) >= 10


@pytest.mark.parametrize("line", shell_lines("make"))
def test_a_make_target_exists(line):
    """`make train` and `make test` are the whole way from a fresh machine."""
    target = line.split()[1]

    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


# --- names ------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What `#...` may point to: explicit ids, and headings as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return set(re.findall(r'<a id="([^"]+)">', text)) | {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("name", TEXT)
def test_links_lead_somewhere(name):
    """To a file of this repository, and to a heading in it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[name]):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text()), f"{name}: {link}"


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "docs/running.md"])
def test_source_files_that_are_named_exist(name):
    """Documents point into the code; a file that moves takes its name here along."""
    known = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("**/*.py") if ".venv" not in path.parts}
    for span in spans(TEXT[name]):
        if re.fullmatch(r"[\w/]+\.py", span):
            assert any(f"/{path}".endswith(f"/{span}") for path in known), f"{name}: {span}"


def test_the_architecture_names_the_packages_that_there_are():
    """Its table is the table of contents of the source."""
    rows = re.findall(r"^\| `(\w+)` \|", ARCHITECTURE, re.MULTILINE)
    packages = {path.parent.name for path in (ROOT / "src" / "openwafer").glob("*/__init__.py")}

    assert sorted(rows) == sorted(packages)


@pytest.mark.parametrize("name", TEXT)
def test_no_document_names_a_path_of_this_machine(name):
    """A reader has another machine, and what lies on the writer's is nobody's business."""
    own = {str(path) for path in (ROOT, ROOT.parent, Path.home(), Path(sys.prefix)) if len(path.parts) > 1}

    for place in own | {"/home/", "/root/", "/Users/", "/tmp/"}:
        assert not re.search(rf"(?<![\w.~:]){re.escape(place)}(?!\w)", TEXT[name]), f"{name} names {place}"


def test_pictures_are_small_and_shown():
    """They travel with every clone."""
    pictures = list((ROOT / "docs" / "images").iterdir())

    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < IMAGE_BYTES, picture.name
        assert any(f"images/{picture.name}" in text for text in TEXT.values())


# --- tables -----------------------------------------------------------------------------------------------


def rows(text: str, heading: str) -> Iterator[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table, heading
    for line in table[0].splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_a_run_folder_holds_what_the_readme_lists(ran):
    """No file without an explanation, and none that a run does not write."""
    listed = {
        span.partition("/")[0]
        for first, *_ in rows(README, "What a run leaves behind")
        for span in re.findall(r"`([^`]+)`", first)
    }
    found = {path.name for path in (ran / "runs" / "gpt-small").iterdir()}

    assert listed - {"memoryx"} == found - {"lock"}


def test_the_readme_lists_every_recipe_with_its_sizes():
    """The sizes that a recipe itself names when it is asked for another."""
    listed = {}
    for first, _, sizes in rows(README, "Recipes"):
        listed[re.findall(r"\((.+)\)", first)[0]] = sizes.split(", ")

    assert set(listed) == {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").glob("*.py")}
    for path, sizes in listed.items():
        with pytest.raises(InputError) as error:
            load_recipe(ROOT / path, size="no such size")
        assert str(error.value).rsplit("one of ", 1)[1].split(", ") == sizes, path


@pytest.mark.parametrize(
    ("kind", "heading"),
    [(LocalCluster, "The cluster: `ow.LocalCluster`"), (RunConfig, "The run: `ow.RunConfig`")],
)
def test_every_field_of_a_configuration_is_explained(kind, heading):
    """In its table, once, and nothing that is no field."""
    listed = [span for first, *_ in rows(RUNNING, heading) for span in re.findall(r"`(\w+)`", first)]

    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(kind))


def test_every_option_of_wafer_train_is_explained():
    """What --help lists stands in one of the documents."""
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    options = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}

    assert "--systems" in options
    for option in options:
        if not option.startswith("--no-"):
            assert f"`{option}" in README + RUNNING or f" {option}" in README, option


def test_every_precision_is_explained():
    """The table has exactly the modes that a run takes."""
    listed = {first.strip("`") for first, *_ in rows(RUNNING, "Precision")}

    for mode in listed:
        assert (
            dataclasses.replace(load_recipe(ROOT / "recipes" / "mnist.py"), precision=mode).precision == mode
        )
    with pytest.raises(InputError) as error:
        dataclasses.replace(load_recipe(ROOT / "recipes" / "mnist.py"), precision="fp8")
    assert set(re.findall(r"'([\w-]+)'", str(error.value).split("take one of")[1])) == listed


def test_the_plan_that_is_shown_has_the_lines_of_a_plan(ran):
    """Names and order of its lines; the numbers are an example's."""

    def labels(text: str) -> list[str]:
        words = [line.split()[0] for line in text.partition("\nlayer ")[0].splitlines() if line.strip()]
        return [word for word in words[1:] if word != "system1"]

    assert labels(blocks(RUNNING, "text")[0]) == labels((ran / "runs" / "gpt-small" / "plan.txt").read_text())


def test_the_errors_of_the_readme_are_errors_of_the_code():
    """A reader searches for the text on the screen. Numbers and what the dots leave out may differ."""
    source = "".join(path.read_text() for path in sorted((ROOT / "src").glob("**/*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", source)

    for first, _ in rows(README, "When something goes wrong"):
        parts = [part for part in re.split(r"\d+(?: MiB)?|\.\.\.", first.strip("`")) if len(part) > 12]
        assert parts, first
        for part in parts:
            assert part in source, f"{first}: {part!r}"
