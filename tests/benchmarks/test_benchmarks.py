"""The benchmarks run, on the smallest shapes, and what they print follows from what they measured.

Speeds of such shapes mean nothing, so none is compared: the tests ask whether every contestant has every figure,
whether the losses agree as the scripts say, and whether the tables say what the raw figures do.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_cases import BENCHMARKS, SCRIPTS, Bench, check_steps, left_as_it_was, median_s, mib

from openwafer.base import GIB, RoleLost
from openwafer.cluster._matmul import onednn_is_available

SMALL = ["--width", "32", "--heads", "2", "--positions", "16", "--batch", "2", "--threads", "1"]
TINY = ["--model", "tiny", "--batch", "2", "--threads", "1", "--steps", "2"]


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Bench]:
    """The scripts, importing their neighbours as they do when Python starts them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    with left_as_it_was():
        yield Bench(monkeypatch, capsys, tmp_path)


# --- figures ----------------------------------------------------------------------------------------------


def test_train_has_the_plain_loops_losses_and_shows_what_it_measured(bench: Bench) -> None:
    """One system and one microbatch are bitwise the plain loop, recomputed or not; else speeds compare nothing."""
    names = ["resident", "wafer-ram-recomputed", "wafer-disk-tuned"]
    ran = bench("train", *TINY, *names)

    rounds = {name: figures for name, (figures,) in ran.figures["rounds"].items()}
    assert list(rounds) == [row["contestant"] for row in ran.rows] == names
    for name, figures in rounds.items():
        row = ran.row(name)
        check_steps(figures, 2)
        assert figures["losses"] == rounds["resident"]["losses"]
        assert row["s/step"] == f"{median_s(figures):.3f}"
        assert row["of resident"] == f"{median_s(rounds['resident']) / median_s(figures):.2f}"
        assert row["tok/s"] == f"{2 * 64 / median_s(figures):.0f}"
        assert (row["VmHWM MiB"], row["above MiB"]) == (mib(figures["peak"]), mib(figures["above"]))
        assert row["predicted MiB"] == ("" if name == "resident" else mib(figures["predicted"]))
        promised = figures.get("predicted_s")  # None for steps of a moment
        assert row["predicted"] == ("" if promised is None else f"{promised:.3f}")


def test_peers_trains_the_same_model_as_fsdp2(bench: Bench) -> None:
    """From the same weights on the same tokens; FSDP2 in a process without openwafer, as the script has it."""
    names = ["resident", "wafer-disk", "fsdp2-offload"]
    ran = bench("peers", *TINY, *names, apart=["fsdp2-offload"])

    rounds = {name: figures for name, (figures,) in ran.figures["rounds"].items()}
    assert (
        list(rounds) == [row["contestant"] for row in ran.rows] == list(ran.figures["differences"]) == names
    )
    for name, figures in rounds.items():
        row = ran.row(name)
        check_steps(figures, 2)
        assert figures["losses"] == pytest.approx(rounds["resident"]["losses"], rel=1e-6)
        assert row["s/step"] == f"{median_s(figures):.3f}"
        assert row["of resident"] == f"{100 * median_s(rounds['resident']) / median_s(figures):.0f} %"
        assert row["VmHWM MiB"] == mib(figures["peak"])


def test_depth_measures_every_depth_kept_and_recomputed(bench: Bench, tmp_path: Path) -> None:
    """Two trainings of the same numbers, of which one holds less between the passes; and a picture of them."""
    picture = tmp_path / "depth.png"
    small = [*SMALL, "--vocabulary", "64", "--steps", "1", "--picture", str(picture)]
    ran = bench("depth", "--layers", "1", "3", *small)

    assert [row["layers"] for row in ran.figures["rows"]] == [1, 3]
    for row in ran.figures["rows"]:
        shown = ran.row(str(row["layers"]))
        for mode in ("kept", "recomputed"):
            check_steps(row[mode], 1)
            assert shown[f"{mode}, predicted"] == mib(row[mode]["predicted"])
            assert shown[f"{mode}, measured"] == mib(row[mode]["above"])
        assert row["kept"]["losses"] == row["recomputed"]["losses"]
        assert row["kept"]["state_bytes"] >= 12 * row["parameters"]
    shallow, deep = ran.figures["rows"]
    assert deep["kept"]["state_bytes"] > shallow["kept"]["state_bytes"]
    assert deep["kept"]["predicted"] > deep["recomputed"]["predicted"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_vocabulary_measures_every_vocabulary_resident_and_streamed(bench: Bench) -> None:
    """A vocabulary may be cut by rows, and its loss then adds in another order: within rounding."""
    ran = bench("vocabulary", "--vocabularies", "20000", "--layers", "1", "--steps", "2", *SMALL)

    (row,), (shown,) = ran.figures["rows"], ran.rows
    assert str(row["vocabulary"]) == shown["vocabulary"] == "20000"
    for name in ("resident", "ram", "disk"):
        check_steps(row[name], 2)
        assert row[name]["losses"] == pytest.approx(row["resident"]["losses"], rel=1e-6)
        assert shown[f"{name} s/step"] == f"{median_s(row[name]):.3f}"
        assert shown[f"{name}, measured"] == mib(row[name]["above"])
    logits_bytes = 4 * 2 * 16 * 20000
    assert shown["resident, holds at least"] == mib(16 * row["parameters"] + 2 * logits_bytes)


def test_pipeline_accounts_for_the_seconds_of_two_systems_in_both_modes(bench: Bench) -> None:
    """The bubble by the plan is its formula; the measured one is what the seconds of the systems leave."""
    arguments = ["--model", "tiny", "--batch", "4", "--microbatches", "2", "--steps", "4"]
    ran = bench("pipeline", *arguments)

    runs = {name: figures for name, (figures,) in ran.figures["runs"].items()}
    resident = runs["resident, 2"]
    check_steps(resident, 4)
    assert list(runs) == ["resident, 2", "pipelined, 2", "streaming, 2"]
    for mode in ("pipelined", "streaming"):
        figures, row = runs[f"{mode}, 2"], ran.row(mode)
        check_steps({**figures, "peak": sum(figures["peaks"].values())}, 4, clocks=["times"])
        assert figures["losses"] == pytest.approx(resident["losses"], rel=1e-6)
        assert set(figures["peaks"]) >= {"system0", "system1", "coordinator"}
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in figures["compute"])
        left = [
            1 - sum(seconds) / (2 * step)
            for seconds, step in zip(figures["compute"], figures["times"], strict=True)
        ]
        assert figures["bubbles"] == pytest.approx(left)
        assert row["bubble, measured"] == f"{100 * statistics.median(left[1:]):.1f} %"
        assert row["of resident"] == f"{100 * median_s(resident) / median_s(figures):.0f} %"
        assert list(figures["waits"]) == ["weights", "values", "gradients", "inputs"]
        assert min(figures["waits"].values()) >= 0
    assert runs["pipelined, 2"]["bubble"] == pytest.approx(1 / 3)
    assert ran.row("pipelined")["bubble, plan"] == "33.3 %"
    assert 0 <= runs["streaming, 2"]["hidden_reduce"] <= 1


def test_larger_than_memory_limits_the_process_that_trains(bench: Bench) -> None:
    """The limit is set before torch is imported, so this worker is a process also here. It holds far more than tiny
    needs; a run below its state takes a minute, and tests/train/test_larger_than_memory.py has one."""
    shapes = ["--shape", "tiny", "--reference-shape", "tiny", "--limit", "2GiB", "--ratio", "0.001"]
    small = ["--batch", "2", "--microbatches", "1", "--threads", "1"]
    ran = bench("larger_than_memory", *shapes, *small, apart=["limited"])

    limited, resident = ran.figures["limited"], ran.figures["resident"]
    check_steps(limited, 3)
    check_steps(resident, 3)
    assert limited["losses"] == resident["losses"]
    assert limited["losses"][-1] < limited["losses"][0]
    assert limited["limit"] == 2 * GIB
    assert 0 < limited["data_before"] <= limited["data_peak"] <= limited["limit"]
    flops = ran.figures["flops"]
    assert flops["limited"] == flops["resident"] > 0
    rate = ran.row("of the resident rate")
    assert rate["limited, from disk"] == f"{100 * median_s(resident) / median_s(limited):.0f} %"


def test_serve_streaming_serves_within_its_limit_and_with_the_same_answers(bench: Bench) -> None:
    """The limit is set before torch is imported, so this worker is a process also here. Different answers end the script."""
    small = ["--layers", "4", "--hidden", "64", "--sequences", "2", "--batches", "2", "--threads", "1"]
    ran = bench("serve_streaming", *small, "--rounds", "1", apart=["streamed"])

    planned, (measured,) = ran.figures["planned"], ran.figures["rounds"]
    assert planned["kept"] < planned["weights"]
    assert "RLIMIT_DATA" in planned["limited_by"]
    for name in ("cold", "warm"):
        assert 0 < measured[name]["data_peak"] <= planned["limit"]
        assert measured[name]["answers"] == ran.figures["resident"]["answers"]
    turns = measured["cold"]["turns"]
    shares = statistics.median(turn["rate"] / max(turn["read"].values()) for turn in turns)
    row = ran.rows[0]
    assert row["page cache"] == "cold"
    assert row["which is"] == f"{100 * shares:.0f} % of the fastest loop"
    assert row["tokens/s"] == f"{statistics.median(turn['tokens'] for turn in turns):.1f}"


def test_serve_peers_measures_those_that_are_installed_and_names_the_others(
    bench: Bench, tmp_path: Path
) -> None:
    """A Python that is not there has no llama.cpp; what remains is compared all the same."""
    small = ["--shape", "tiny", "--threads", "1", "--rounds", "1", "--steps", "40", "--prompts", "1"]
    ran = bench("serve_peers", *small, "--llama-python", str(tmp_path / "python"))

    (measured,), found = ran.figures["rounds"], ran.figures["contestants"]
    assert "llama.cpp" in ran.figures["missing"]
    assert [row["contestant"] for row in ran.rows] == found
    assert found[:2] == ["engine", "executor"]
    for name in found:
        figures, row = measured[name], ran.row(name)
        assert row["decode 1"] == f"{figures['decode 1']:.2f}"
        assert row["8 : 1"] == f"{figures['decode 8'] / figures['decode 1']:.2f}"
        assert row["of bound"] == f"{figures['decode 1'] * ran.figures['needed'] / figures['probe']:.2f}"
        assert row["prefill 512"] == f"{figures['prefill 512']:.0f}"


def test_serve_overhead_compares_a_served_step_with_the_same_step_alone(bench: Bench) -> None:
    """By medians of all steps; then every case beside an executor that computes nothing."""
    small = ["--shape", "tiny", "--threads", "1", "--rounds", "1", "--steps", "40"]
    ran = bench("serve_overhead", *small, "--vocabularies", "400", "--step-ms", "5")

    for row in ran.rows:
        steps = ran.figures["served"][row["served"]]
        assert row["steps"] == str(len(steps))
        more = [(step["between"] + step["served"] - step["alone"]) / step["alone"] for step in steps]
        assert row["overhead"] == f"{100 * statistics.median(more):.1f} %"
        assert row["alone, ms"] == f"{statistics.median(step['alone'] for step in steps):.2f}"
        assert all(min(step.values()) > 0 for step in steps)
    assert len(ran.rows) == len(ran.figures["served"]) == 4
    idle = ran.figures["idle"]
    assert [row["way"] for row in idle] == 6 * ["engine"] + 4 * ["HTTP"]
    assert all(row["idle_ms"] and min(row["idle_ms"]) > 0 for row in idle)
    assert ran.figures["step_ms"] == 5


def test_serve_kernels_measures_every_part_by_the_kernels_at_hand(bench: Bench) -> None:
    """One token, several, a step of all layers, and rows that become tokens; rates are bytes by seconds."""
    ran = bench("serve_kernels", "--shape", "tiny", "--threads", "1", "--rounds", "1")

    products, tokens, step, choice = (ran.figures[part] for part in ("products", "tokens", "step", "choice"))
    assert {row["dtype"] for row in products} == {row["dtype"] for row in tokens}
    assert len(products) == 4 * 3
    assert len(tokens) == 4 * 2 * 6
    assert [row["context"] for row in step] == [64, 1024, 2048]
    assert {(row["rows"], row["vocabulary"]) for row in choice} == {(8, 512), (8, 2048), (64, 2048)}
    for row in (*products, *step):
        assert row["of probe"] == row["native"] / row["probe"] > 0
    assert all(min(row["native"], row["torch"]) > 0 for row in tokens)
    assert all(min(row["again"], row["after a rest"], row["NumPy"]) > 0 for row in choice)


def test_serve_streaming_makes_a_group_where_memory_is_handed_out(bench: Bench, tmp_path: Path) -> None:
    """Below the nearest group that may limit memory, which need not be this process's own; else there is none."""
    serve_streaming = importlib.import_module("serve_streaming")
    mount = tmp_path / "sys/fs/cgroup"
    (tmp_path / "proc/self").mkdir(parents=True)
    (mount / "user/scope").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user/scope\n")
    (mount / "user/scope/cgroup.subtree_control").write_text("\n")

    with serve_streaming.memory_group(1 << 30, tmp_path) as group:
        assert group is None
    (mount / "user/cgroup.subtree_control").write_text("cpu memory\n")
    with serve_streaming.memory_group(1 << 30, tmp_path) as group:
        assert group is not None
        assert Path(group).parent == mount / "user"
        assert Path(group, "memory.max").read_text() == str(1 << 30)
        assert Path(group, "memory.swap.max").read_text() == "0"


def test_gpu_caps_the_streamed_contestant_and_not_the_resident(bench: Bench) -> None:
    """On the engine that copies, since a machine may have no GPU; what it allocates stays below the cap."""
    ran = bench("gpu", "--shape", "tiny", "--device", "copying", "--cap", "250000000", "--steps", "3")

    runs, cap = ran.figures["runs"], ran.figures["cap"]
    assert list(runs) == [row["contestant"] for row in ran.rows] == ["resident", "streamed"]
    assert cap == 250_000_000
    assert 0 < runs["streamed"]["peak"] <= cap
    for name, figures in runs.items():
        row = ran.row(name)
        check_steps({**figures, "peak": figures["peak"] or cap}, 3, clocks=["times"])
        assert row["s/step"] == f"{median_s(figures, 2):.3f}"
        assert row["of resident"] == f"{median_s(runs['resident'], 2) / median_s(figures, 2):.2f}"
    assert runs["resident"]["peak"] is runs["resident"]["computed"] is None
    assert ran.row("resident")["cap"] == ran.row("resident")["peak"] == ""
    assert len(runs["streamed"]["computed"]) == 3


@pytest.mark.skipif(not onednn_is_available(), reason="this torch has no oneDNN to compare with")
def test_matmul_compares_the_three_products_of_a_layer(bench: Bench) -> None:
    """By both kernels, with the ratio of the two and the choice of `matmul="auto"`."""
    ran = bench("matmul", "--layers", "64x96", "32x32", "--tokens", "32", "--threads", "1", "--repeats", "1")

    rows = ran.figures["rows"]
    products = ["forward", "grad-x", "grad-w"]
    expected = [(layer, product) for layer in ("64 x 96", "32 x 32") for product in products]
    assert [(row["layer"], row["product"]) for row in rows] == expected
    assert [(row["layer"], row["product"]) for row in ran.rows] == expected
    for row, shown in zip(rows, ran.rows, strict=True):
        assert min(row["torch"], row["onednn"], row["choosing_s"]) > 0
        assert row["auto"] in ("torch", "onednn")
        assert shown["onednn/torch"] == f"{row['onednn'] / row['torch']:.2f}"


def test_the_network_moves_the_same_hops_at_any_speed(bench: Bench) -> None:
    """Rates follow from the hops that the streams need, which trains do not change."""
    ran = bench("fabric_network", "--scale", "0.002", "--repeats", "1")

    hops = {row["case"]: row["hops"] for row in ran.figures["rows"]}
    assert hops["line"] == 400 * 200
    assert hops["line, single"] == 200 * 200
    assert hops["rows and columns"] == 40 * 2 * 16 * 15
    assert hops["column"] == 4 * 2 * sum(range(16)) * 16
    assert hops["neighbours"] == 6 * 4 * 16 * 15
    assert [row["case"] for row in ran.rows] == list(hops)


# --- command lines ----------------------------------------------------------------------------------------

REFUSED = {
    "one step": (["train", "--steps", "1"], "the first step of a run cannot count; give --steps 2"),
    "an unknown contestant": (
        ["train", "resident-recomputed"],
        "there is no contestant 'resident-recomputed'",
    ),
    "a peer that is none": (
        ["peers", "deepspeed"],
        "there is no contestant 'deepspeed'; take some of resident,",
    ),
    "an uneven batch": (
        ["peers", "--batch", "4", "--microbatches", "3"],
        "does not divide into 3 microbatches",
    ),
    "too few pieces": (["serve_overhead", "--steps", "2"], "give --steps from 10 to 1000"),
    "one step of a vocabulary": (["vocabulary", "--steps", "1"], "give --steps 2 or more"),
    "no step for the overlap": (["pipeline", "--steps", "3"], "give --steps 4 or more"),
    "half a sample": (
        ["pipeline", "--batch", "2", "--microbatches", "2"],
        "on each of 2 systems; choose other",
    ),
    "a limit that shows nothing": (
        ["larger_than_memory", "--shape", "tiny", "--limit", "2GiB"],
        "but 4 times is asked for; lower --limit to",
    ),
    "a limit below Python": (
        ["larger_than_memory", "--shape", "tiny", "--limit", "2MiB", "--threads", "1"],
        "take a smaller --batch, --recompute, a --shape of more and smaller layers",
    ),
    "no step that counts": (
        ["gpu", "--steps", "2"],
        "the first 2 steps of a run cannot count; give --steps 3 or more",
    ),
    "no such folder": (["train", "--folder", "/nonexistent"], "name another with --folder"),
}


@pytest.mark.parametrize(("command", "told"), REFUSED.values(), ids=REFUSED)
def test_a_run_that_would_show_nothing_is_refused_before_it_begins(
    bench: Bench, command: list[str], told: str
) -> None:
    """With one sentence as the exit status, which Python prints, and nothing left behind."""
    script, *arguments = command
    folder = [] if "--folder" in arguments else ["--folder", str(bench.folder)]

    with pytest.raises(SystemExit) as ended:
        bench.main(script, *arguments, *folder)

    assert re.match(r"(Input|Storage)Error: ", str(ended.value.code))
    assert told in str(ended.value.code)
    assert not list(bench.folder.iterdir())


def commands_of(script: str) -> list[str]:
    """The command lines that a script's docstring gives."""
    text = ast.get_docstring(ast.parse((BENCHMARKS / f"{script}.py").read_text())) or ""
    joined = re.sub(r"\\\n +", "", text)
    return [
        line.partition(" #")[0] for line in re.findall(r"^ +python benchmarks/(.*)$", joined, re.MULTILINE)
    ]


class Parsed(Exception):  # noqa: N818 - no error: the command line is understood
    """Ends a script when its options are read."""


def test_a_management_node_has_every_figure_and_its_followers_miss_nothing(bench: Bench) -> None:
    """Small numbers, the same way: a node of its own, jobs that wait, a log that grows and is read."""
    ran = bench("appliance_node", "--jobs", "3", "--followers", "2", "--seconds", "1", apart={"follow"})

    assert (ran.figures["jobs"], ran.figures["followers"], ran.figures["missing"]) == (3, 2, 0)
    assert all(ran.figures[name] > 0 for name in ("submissions_per_s", "cpu", "rss", "list_s", "delay_s"))
    assert ran.row("memory of the node, MiB")["measured"] == mib(ran.figures["rss"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_commands_in_a_scripts_help_are_ones_that_it_takes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """They repeat the published figures, so an option that changes its name must take them along."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser) -> None:
        real(parser)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    commands = commands_of(script)

    assert commands
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == f"{script}.py"
        with pytest.raises(Parsed):
            bench.main(script, *arguments)


def test_the_readme_lists_every_script() -> None:
    """It is where a reader looks for the one that answers a question."""
    listed = re.findall(r"^\| `(\w+)\.py` \|", (BENCHMARKS / "README.md").read_text(), re.MULTILINE)

    assert sorted(listed) == SCRIPTS


def test_a_contestant_that_fails_is_told_with_its_last_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its output is a pipe's, which nobody else would show."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from _common import run_worker

    script = tmp_path / "broken.py"
    script.write_text("import sys\nprint('about to read', sys.argv[2])\nraise OSError('no such tape')\n")

    with pytest.raises(RoleLost, match=r"(?s)tape failed; its last lines:\n.*OSError: no such tape"):
        run_worker(script, "tape", {})
