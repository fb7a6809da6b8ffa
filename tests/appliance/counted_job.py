"""The job that `wafer submit` makes of counted.py, and what must come out of it whatever happens on the way."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console

from openwafer.appliance import JobSpec
from openwafer.cli._train_job import REQUEST, TrainRequest
from openwafer.cluster.store import Checkpoint, list_checkpoints
from openwafer.train import fit_config, load_recipe
from openwafer.train.report import read_metrics

RECIPE = Path(__file__).with_name("counted.py")


def counted_job(
    steps: int, pause: float, hurry: Path | None = None, **changes: Any
) -> tuple[JobSpec, dict[str, bytes]]:
    """What is submitted, for two systems. hurry: a file; once it is there, no step pauses. changes: fields of the spec."""
    arguments = [f"steps={steps}", f"pause={pause}", f"hurry={hurry or ''}"]
    request = TrainRequest(recipe=RECIPE.name, arguments=arguments)
    words = ("{python}", "-m", "openwafer.cli", "train-job", f"{{job}}/source/{REQUEST}")
    words += ("--systems", "{systems}", "--memoryx", "{memoryx}", "--threads", "{threads}")
    words += ("--folder", "{job}/run")
    asked = {"kind": "train", "systems": 2, "max_restarts": 3, "tells_state": True, **changes}
    spec = JobSpec(command=words, resume_command=words, **asked)
    return spec, {RECIPE.name: RECIPE.read_bytes(), REQUEST: msgspec.json.encode(request)}


def check_undisturbed(run: Path, steps: int, scratch: Path, systems: int = 2) -> None:
    """Every step was reported once, with the loss of a run that nothing happened to, and the weights are that run's."""
    config = load_recipe(RECIPE, steps=steps)
    config = replace(config, folder=str(scratch), cluster=replace(config.cluster, systems=systems))
    expected = fit_config(config, console=Console(file=io.StringIO()))
    reports = read_metrics(run / "metrics.jsonl").train
    assert [report.step for report in reports] == list(range(1, steps + 1))
    assert [report.loss for report in reports] == list(expected.losses)
    ours, theirs = (
        Checkpoint.open(list_checkpoints(folder / "checkpoints")[-1], verify=True)
        for folder in (run, scratch)
    )
    assert ours.step == theirs.step == steps
    for name in theirs.types:
        assert torch.equal(ours.tensor(name), theirs.tensor(name)), name
