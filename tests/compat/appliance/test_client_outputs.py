"""What a run gives out beside losses and weights: metrics kept on the device, whole tensors, times, files for the dashboard."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip("grpc")
pytest.importorskip("cerebras.appliance")

from mlp_pipeline import sentences
from stub_client import Client, Coordinator, appliance, golden, wait_until

from openwafer.appliance import JobFolder
from openwafer.appliance.dashboard import read_timeline
from openwafer.artifact import plan_from_json
from openwafer.train.report import read_metrics

sys.path.append(str(Path(__file__).parents[1] / "cirh"))
from cirh_plain import PlainRun, first_state

STEPS = 4
OUTPUTS = ("output_loss", "output_a", "output_p", "output_logits")
COUNT = "state.metrics.accuracy.0.total_num_tokens"


class Run(NamedTuple):
    """A finished run of a program on two systems, and what plain torch makes of the same."""

    found: list[dict[str, torch.Tensor]]
    wanted: list[dict[str, torch.Tensor]]
    count: tuple[float, float]
    finalized: object
    number: int
    folder: JobFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    text = golden("gpt2_float16_metrics_eval")
    state = first_state(text)
    with appliance(tmp_path_factory.mktemp("state"), systems=2) as (node, door):
        client = Client(door.address)
        compiled = client.compile(text, batch=8, systems=2)
        assert 0 < compiled.perf_info.algo_flops < compiled.perf_info.supported_flops
        job, coordinator = client.execute(compiled)
        load = coordinator.parts.appliance.LoadRequest(cache_compile_dir=compiled.cache_compile_dir)
        load.op_profiler_config.start_step, load.op_profiler_config.end_step = 2, 3
        coordinator.call("UnaryLoad", load)
        coordinator.run(STEPS, builder="sentences")
        _send(coordinator, state)
        coordinator.call("UnaryStartStreaming")
        found = [{name: coordinator.output(step, name) for name in OUTPUTS} for step in range(STEPS)]
        finalized = coordinator.call("UnaryFinalize")
        coordinator.call("UnaryMoveToPTR", tensor_name=COUNT, ptid=1)
        count = coordinator.from_repository(1).item()
        (state_id,) = coordinator.call("UnaryGetCMDStateIds").ids
        number = coordinator.random_state(state_id)
        coordinator.call("UnaryDone")
        wait_until(lambda: node.job(job).is_final)
        plain = PlainRun(text, state)
        wanted = [_plain(plain, batch) for batch in itertools.islice(sentences(), STEPS)]
        folder = node.folder(job)
        yield Run(found, wanted, (count, plain.state[COUNT].item()), finalized, number, folder)


def _send(coordinator: Coordinator, state: dict[str, torch.Tensor]) -> None:
    for name, number in coordinator.expected().items():
        if state[name].ndim:
            coordinator.send(name, state[name])
        else:
            coordinator.fill(number, [], state[name])


def _plain(plain: PlainRun, half: tuple[np.ndarray, ...]) -> dict[str, torch.Tensor]:
    """A step of plain torch; both input workers read the same."""
    tensors = {f"input_{index}": torch.from_numpy(np.tile(value, (2, 1))) for index, value in enumerate(half)}
    reported = plain.step(tensors)
    return {name: torch.tensor(value) for name, value in reported.items()} | plain.tensors


def test_metrics_and_tensors_are_those_of_plain_torch(run: Run) -> None:
    """Two systems, each with half of the samples: counts cover all of them, and logits lie in the order of the samples."""
    for found, wanted in zip(run.found, run.wanted, strict=True):
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            assert value.shape == wanted[name].shape
            assert torch.allclose(value.float(), wanted[name].float(), rtol=5e-3, atol=5e-3), name
    assert run.found[0]["output_logits"].dtype == torch.float16
    assert run.found[0]["output_logits"].shape == (8, 16, 512)
    assert run.count[0] == run.count[1] > 0


def test_finalize_tells_where_the_time_went(run: Run) -> None:
    """For each system its times over the run, and of the steps that the client asked for what each layer took."""
    perf, trace = run.finalized.perf, run.finalized.trace_events

    assert [system.node_name for system in perf.system] == ["system-0", "system-1"]
    assert perf.system[0].io_timestamp.end_user_step == STEPS - 1
    assert perf.runtime[1].summary["steps"] == STEPS
    assert perf.runtime[1].summary["compute_us"] > 0
    kinds = run.finalized.EventTrace.EventType
    assert [event.name for event in trace if event.event_type == kinds.Value("STEP")] == ["step 2", "step 3"]
    layers = {event.name for event in trace if event.event_type == kinds.Value("OP")}
    assert any("blocks" in name and name.endswith(".forward") for name in layers)
    assert trace[-1].ts + trace[-1].dur == max(event.ts + event.dur for event in trace)


def test_the_run_folder_is_that_of_a_native_job(run: Run) -> None:
    """The dashboard and the command line read it without knowing who asked for the job."""
    folder = run.folder.run
    plan = plan_from_json((folder / "plan.json").read_bytes())
    metrics = read_metrics(folder / "metrics.jsonl")
    timeline = read_timeline(folder / "timeline.json")

    assert len(plan.systems) == 2
    assert "blocks" in (folder / "plan.txt").read_text()
    assert [report.step for report in metrics.eval] == [1, 2, 3, 4]
    assert [report.loss for report in metrics.eval] == [made["output_loss"].item() for made in run.found]
    assert timeline is not None
    assert {"system0", "system1"} <= {lane.name.partition(" ")[0] for lane in timeline.lanes}


def test_random_numbers_can_go_on_in_another_job(run: Run) -> None:
    """A client that needs another job takes their state along: the number of the step that would have come next."""
    assert run.number == STEPS
