"""`wafer`: what it prints, how it ends, and that a user's mistake is a sentence and never a traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from openwafer.artifact import plan_from_json
from openwafer.train.report import Timeline, _reporter
from wafer_command import Wafer

RECIPES = Path(__file__).parents[2] / "recipes"
GPT = str(RECIPES / "gpt.py")
PACED = str(Path(__file__).parent / "paced.py")


@pytest.fixture
def wafer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Wafer:
    """The command, on a terminal without colours; pictures, which are tested elsewhere, are left out."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(_reporter, "loss_picture", lambda *args, **kwargs: None)
    monkeypatch.setattr(Timeline, "write_picture", lambda *args, **kwargs: None)
    return Wafer(monkeypatch, capsys)


MISTAKES = {
    "a misspelt recipe": (["train", str(RECIPES / "gtp.py")], "gtp.py is not there; did you mean "),
    "no such folder": (["train", "nowhere/gpt.py"], "nor is the folder nowhere; give the path of a recipe"),
    "a misspelt argument": (["plan", GPT, "sise=tiny"], "no argument 'sise'; did you mean 'size'?"),
    "no value": (["plan", GPT, "tiny"], "'tiny' is no argument of a recipe; write name=value"),
    "an unknown size": (["plan", GPT, "size=tinny"], "no size 'tinny' of this recipe; take one of tiny,"),
    "words for a number": (["plan", GPT, "steps=ten"], "steps must be a whole number or none, got 'ten'"),
    "no steps": (["plan", GPT, "steps=0"], "steps is 0, but it must be a whole number, at least 1"),
    "no such data": (["plan", GPT, "data=/nonexistent"], "/nonexistent is not there; give an existing text"),
    "a unit that is none": (
        ["plan", GPT, "--system-memory", "12XB"],
        "'12XB' is not a size; write a number and a unit",
    ),
    "no systems": (
        ["plan", GPT, "--systems", "0"],
        "systems is 0, but it must be a whole number, at least 1",
    ),
    "more systems than samples": (
        ["plan", GPT, "size=tiny", "--systems", "64"],
        "a batch of 4 samples cannot be shared by 64 systems; use at most 4",
    ),
    "an unknown store": (
        ["plan", GPT, "--memoryx", "tape"],
        "memoryx is 'tape'; write ram, disk, disk:/path",
    ),
    "an unknown mode": (["plan", GPT, "--execution", "sideways"], "'auto', 'weight_streaming', 'pipelined'"),
    "words for a microbatch": (["plan", GPT, "--microbatch", "many"], "microbatch is 'many', but it must be"),
    "neither yes nor no": (["plan", GPT, "--recompute", "maybe"], "recompute is 'maybe'; take one of"),
    "a cut that is none": (
        ["plan", GPT, "--shard-vocabulary", "twice"],
        "shard_vocabulary is 'twice'; take one of",
    ),
    "an unknown machine": (["machine", "WSE-9"], "no machine 'WSE-9': did you mean 'WSE-3'?"),
    "no checkpoint": (["checkpoint", "/nonexistent"], "/nonexistent/manifest.json cannot be read"),
    "nowhere to write the plan": (
        ["plan", GPT, "size=tiny", "--json", "/nonexistent/plan.json"],
        "--json /nonexistent/plan.json cannot be written",
    ),
    "a run folder that is a file": (
        ["train", PACED, "--folder", "/dev/null/run"],
        "the run folder /dev/null/run is a file, or lies below one; name a folder",
    ),
    "nothing to resume": (
        ["train", PACED, "--folder", "/nonexistent/run", "--resume"],
        "/nonexistent/run has no checkpoint to go on from; leave --resume away",
    ),
    "to resume and to overwrite": (
        ["train", PACED, "--folder", "/nonexistent/run", "--resume", "--overwrite"],
        "ask for one of them",
    ),
}


@pytest.mark.parametrize(("command", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_with_one_sentence_that_says_what_to_do(
    wafer: Wafer, command: list[str], told: str
) -> None:
    """On standard error, with exit status 1, so that scripts notice."""
    ended = wafer(*command)

    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert told in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["train"], "Missing argument 'recipe'"),
        (["train", PACED, "--sistems", "2"], "--systems"),
        (["plan", PACED, "--systems", "two"], "Invalid value for '--systems'"),
    ],
)
def test_a_command_that_is_none_is_told_with_its_usage(wafer: Wafer, command: list[str], told: str) -> None:
    """Exit status 2, as every command line tool has it."""
    ended = wafer(*command)

    assert ended.status == 2
    assert "Usage: wafer" in ended.err
    assert told in ended.err


def test_a_budget_that_is_too_small_is_told_what_would_do(wafer: Wafer) -> None:
    """And the advice is right: with exactly the memory that it names, the plan fits."""
    refused = wafer("plan", GPT, "size=tiny", "--system-memory", "100KiB")

    assert refused.status == 1
    assert "gpt-tiny does not fit 100 KiB per system" in refused.err
    advised = re.search(r"give each system at least (\d+) KiB", refused.err)
    assert advised is not None
    assert wafer("plan", GPT, "size=tiny", "--system-memory", f"{int(advised[1]) + 1}KiB").status == 0


def test_help_names_the_commands(wafer: Wafer) -> None:
    """What a person types first."""
    ended = wafer("--help")

    assert ended.status == 0
    assert {"train", "plan", "machine", "checkpoint"} <= set(re.findall(r"\w+", ended.out))


def test_plan_shows_mode_and_memory_and_runs_nothing(wafer: Wafer, tmp_path: Path) -> None:
    """Also as JSON, which reads back as the plan."""
    file = tmp_path / "plan.json"
    streamed = wafer("plan", GPT, "size=tiny", "--json", str(file))
    pipelined = wafer("plan", GPT, "size=tiny", "--systems", "2", "--execution", "pipelined")

    assert streamed.status == pipelined.status == 0
    assert re.search(r"^mode +weight_streaming, 1 system", streamed.out, re.MULTILINE)
    assert re.search(r"^mode +pipelined, 2 system", pipelined.out, re.MULTILINE)
    assert "memoryx" in streamed.out
    assert "system1" in pipelined.out
    assert plan_from_json(file.read_bytes()).model == "gpt-tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_plan_cuts_a_vocabulary_by_rows_where_it_is_asked_to(wafer: Wafer, tmp_path: Path) -> None:
    """Also one so small that `auto` leaves it whole; without the option the recipe's own choice stands."""
    cut = {}
    for choice in ("yes", "no", "auto", ""):
        option = ["--shard-vocabulary", choice] if choice else []
        file = tmp_path / f"plan-{choice}.json"
        assert wafer("plan", GPT, "size=tiny", *option, "--json", str(file)).status == 0
        plan = plan_from_json(file.read_bytes())
        weights = [weight for record in plan.records for weight in record.weights]
        cut[choice] = {weight.part.whole for weight in weights if weight.part}

    assert "embedding.weight" in cut["yes"]
    assert cut["no"] == cut["auto"] == cut[""] == set()


def test_train_keeps_in_its_config_what_the_options_say_of_the_cluster(wafer: Wafer, tmp_path: Path) -> None:
    """In place of the recipe's own words, and as the values that LocalCluster takes, not as text."""
    options = ["--shard-vocabulary", "no", "--recompute", "yes", "--microbatch", "none"]
    assert wafer("train", PACED, "steps=1", *options, "--folder", str(tmp_path)).status == 0

    cluster = json.loads((tmp_path / "config.json").read_text())["cluster"]
    assert (cluster["shard_vocabulary"], cluster["recompute"], cluster["microbatch"]) == (False, True, None)


def test_machines_are_shown_with_the_grade_of_every_number(wafer: Wafer) -> None:
    """One machine or all of them."""
    every, one = wafer("machine"), wafer("machine", "wse-3")

    assert every.status == one.status == 0
    assert all(name in every.out for name in ("WSE-2", "WSE-3", "CS-3"))
    assert "published" in one.out


def test_a_run_is_trained_and_its_checkpoints_are_shown_and_verified(wafer: Wafer, tmp_path: Path) -> None:
    """By the run folder or by the checkpoint; a damaged one is an error."""
    folder = str(tmp_path / "run")
    assert wafer("train", PACED, "steps=3", "--folder", folder).status == 0

    shown = wafer("checkpoint", folder)
    assert shown.status == 0
    assert "checkpoint-0: step 0, 2 weights" in shown.out
    assert "checkpoint-3: step 3, 2 weights" in shown.out
    assert "hashes agree" in wafer("checkpoint", f"{folder}/checkpoints/checkpoint-3", "--verify").out

    shard = next((tmp_path / "run" / "checkpoints" / "checkpoint-3").glob("weights-*"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    damaged = wafer("checkpoint", folder, "--verify")
    assert damaged.status == 1
    assert "checkpoint-3 is damaged: the hash of weights-" in damaged.err


def test_a_second_run_of_another_configuration_needs_to_be_told_what_to_do(
    wafer: Wafer, tmp_path: Path
) -> None:
    """Nothing of the first is touched until then."""
    folder = str(tmp_path)
    assert wafer("train", PACED, "steps=2", "--folder", folder).status == 0

    other = wafer("train", PACED, "steps=4", "--folder", folder)
    assert other.status == 1
    assert "holds another run; its config.json differs in 1 field: steps: 2 there, 4 asked" in other.err
    assert "has 2 steps already" in wafer("train", PACED, "steps=2", "--folder", folder, "--resume").err

    assert wafer("train", PACED, "steps=4", "--folder", folder, "--resume").status == 0
    assert "checkpoint-4: step 4" in wafer("checkpoint", folder).out
    assert wafer("train", PACED, "steps=2", "--folder", folder, "--overwrite").status == 0
    assert "checkpoint-4" not in wafer("checkpoint", folder).out


def test_an_exception_in_the_users_data_shows_where_it_was_raised(wafer: Wafer, tmp_path: Path) -> None:
    """This is the user's code: the line is what helps."""
    ended = wafer("train", PACED, "fail_at=2", "--folder", str(tmp_path))

    assert ended.status == 1
    assert "input0 failed: OSError: the tape broke" in ended.err
    assert "paced.py" in ended.err
