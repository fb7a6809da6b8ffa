"""Progress: what a run says and remembers of its events, each event made by hand."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from openwafer.base import NumericsError
from openwafer.cluster import CheckpointDone, StepDone
from openwafer.train._progress import Progress
from openwafer.train.report import Reporter, RunFolder, read_metrics

FIRST = StepDone(
    step=0,
    train=True,
    loss=4.0,
    metrics={},
    logs={},
    samples=8,
    seconds=1.0,
    results=(),
    spans=(),
    produce_s=0.0,
    inputs_wait_s=0.0,
    bad_layer="",
)
BATCH = replace(FIRST, step=2, train=False)


class Told:
    """A progress of a run from step 0 whose evaluations have three batches, and what its user reads."""

    def __init__(self, path):
        self.folder = RunFolder.create(path, {})
        self.reporter = Reporter(self.folder, 1000, console=Console(file=io.StringIO()), log_every=1000)
        self.progress = Progress(self.reporter, self.checkpoint(0), eval_batches=3)

    def checkpoint(self, step):
        """All that a Progress asks of a checkpoint."""
        return SimpleNamespace(folder=self.folder.checkpoints / f"checkpoint-{step}", step=step)

    def step(self, number, **fields):
        self.progress.stepped(replace(FIRST, step=number, **fields))

    def save(self, steps, bad=""):
        folder = str(self.checkpoint(steps).folder)
        self.progress.saved(CheckpointDone(step=steps, folder=folder, seconds=0.5, bad=bad))

    def evaluations(self):
        return read_metrics(self.folder.metrics).eval

    def log(self):
        return self.folder.log.read_text()


@pytest.fixture
def told(tmp_path):
    told = Told(tmp_path)
    yield told
    told.reporter.close()
    told.folder.close()


# --- evaluation -------------------------------------------------------------------------------------------


def test_an_evaluation_is_the_mean_over_its_batches_and_the_sum_of_their_times(told):
    """Nothing is said before the last batch: a mean over some of them is another number under the same name."""
    for loss, right in ((1.0, 0.5), (2.0, 0.25), (6.0, 0.0)):
        assert told.progress.eval_losses == ()
        told.progress.evaluated(replace(BATCH, loss=loss, metrics={"accuracy": right}, seconds=0.5))

    assert told.progress.eval_losses == ((2, 3.0),)
    [report] = told.evaluations()
    assert (report.step, report.loss, report.metrics) == (2, 3.0, {"accuracy": 0.25})
    assert (report.samples, report.seconds) == (24, 1.5)


def test_an_evaluation_knows_nothing_of_the_one_before(told):
    """The sums begin anew, whatever the first evaluation held."""
    for step, loss in ((2, 9.0), (4, 1.0)):
        for _ in range(3):
            told.progress.evaluated(replace(BATCH, step=step, loss=loss, metrics={"accuracy": loss}))

    assert told.progress.eval_losses == ((2, 9.0), (4, 1.0))
    assert [report.metrics for report in told.evaluations()] == [{"accuracy": 9.0}, {"accuracy": 1.0}]


def test_an_evaluation_that_a_lost_role_cut_short_begins_again(told):
    """Two batches of three were in; together with the first of the next attempt they would make a whole one."""
    for loss in (100.0, 200.0):
        told.progress.evaluated(replace(BATCH, loss=loss))
    told.progress.recovered(told.checkpoint(0))
    for loss in (1.0, 2.0, 6.0):
        told.progress.evaluated(replace(BATCH, loss=loss))

    assert told.progress.eval_losses == ((2, 3.0),)
    assert [(report.loss, report.samples) for report in told.evaluations()] == [(3.0, 24)]


def test_evaluation_counts_neither_as_steps_nor_in_their_rate(told):
    """samples/s says how fast the run trains."""
    told.step(0, seconds=2.0)
    for _ in range(3):
        told.progress.evaluated(replace(BATCH, seconds=50.0))

    assert told.progress.losses == (4.0,)
    assert told.progress.samples_per_s == 4.0


# --- steps ------------------------------------------------------------------------------------------------


def test_a_step_done_again_counts_once_with_its_later_loss(told):
    """Losses are one for each step; the time went by twice, and the rate is of the time."""
    for number, loss in ((0, 4.0), (1, 3.0), (2, 2.0)):
        told.step(number, loss=loss)
    told.progress.recovered(told.checkpoint(1))
    told.step(1, loss=30.0, seconds=3.0)

    assert told.progress.losses == (4.0, 30.0, 2.0)
    assert told.progress.samples_per_s == pytest.approx(4 * 8 / 6)


def test_before_the_first_step_there_is_no_loss_and_no_rate(told):
    """Ctrl-C may come while the roles start."""
    assert told.progress.losses == ()
    assert told.progress.samples_per_s == 0.0
    assert summary_of(told)["loss"] == "none"
    assert summary_of(told)["s/step"] == "0.000 measured"


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(told):
    """It is what the user goes on from; the step is counted from 1, as the log counts."""
    told.step(0)
    told.save(1)

    with pytest.raises(NumericsError, match=r"loss is nan at step 2; .* is h\.1; .*checkpoint-1: lower the"):
        told.step(1, loss=math.nan, bad_layer="h.1")

    assert told.progress.losses == (4.0,)


def test_a_checkpoint_that_a_run_recovers_from_is_its_last_good_one(told):
    """A role may be lost after checkpoint-4 was complete and before anyone told so; advice must name it all the same."""
    told.save(2)
    told.progress.recovered(told.checkpoint(4))

    with pytest.raises(NumericsError, match=r"loss is inf at step 5; the last good .*checkpoint-4: lower"):
        told.step(4, loss=math.inf)

    assert told.progress.saved_steps == 4


# --- checkpoints ------------------------------------------------------------------------------------------


def test_a_refused_checkpoint_is_not_the_last_one(told):
    """It was never written: the one before it is what there is."""
    told.save(3)

    with pytest.raises(NumericsError, match=r"w holds NaN or infinity after step 6, .*checkpoint-3: lower"):
        told.save(6, bad="w")

    assert told.progress.last_checkpoint.name == "checkpoint-3"
    assert told.progress.saved_steps == 3
    assert "Path=checkpoints/checkpoint-3" in told.log()
    assert "checkpoint-6" not in told.log()


# --- input ------------------------------------------------------------------------------------------------


def test_input_that_is_too_slow_is_told_after_half_a_minute_with_the_workers_it_needs(told):
    """31 s in which 3/4 of the time nobody computed: 31 s of work for one worker, in the 7.75 s that remain, take 4."""
    for number in range(30):
        told.step(number, inputs_wait_s=0.75, produce_s=1.0)
    assert "Input is too slow" not in told.log()

    told.step(30, inputs_wait_s=0.75, produce_s=1.0)

    assert "waited for batches for 75 % of the time; 4 input workers would keep up" in told.log()


def test_one_input_worker_is_never_told_to_be_enough(told):
    """There is one already, and it was too slow: a share of waiting with little work points at something else."""
    told.step(0, seconds=40.0, inputs_wait_s=10.0, produce_s=1.0)

    assert "2 input workers would keep up" in told.log()


def test_each_half_minute_is_judged_by_itself(told):
    """The first batches are always late, and a cache warms up: what was told must not be told of later steps."""
    told.step(0, seconds=31.0, inputs_wait_s=20.0, produce_s=20.0)
    told.step(1, seconds=31.0, inputs_wait_s=3.0, produce_s=20.0)
    assert told.log().count("Input is too slow") == 1

    told.step(2, seconds=31.0, inputs_wait_s=3.2, produce_s=20.0)
    assert told.log().count("Input is too slow") == 2


def test_a_short_wait_for_input_is_not_worth_a_word(told):
    """A tenth of the time is the limit; at it, another worker would change little."""
    told.step(0, seconds=40.0, inputs_wait_s=4.0, produce_s=40.0)

    assert "Input is too slow" not in told.log()


# --- what is left -----------------------------------------------------------------------------------------


def summary_of(told, predicted_s=None):
    """The summary of a run of a minute, of two systems with 3 and 5 MiB to hold."""
    mib = 2**20
    systems = [SimpleNamespace(memory=SimpleNamespace(peak=peak * mib)) for peak in (3, 5)]
    plan = SimpleNamespace(host_bytes=7 * mib, systems=systems)
    return told.progress.summary(plan, told.folder.path, seconds=60.0, predicted_s=predicted_s)


def test_the_summary_sets_the_median_step_beside_the_predicted_one(told):
    """The first step loads and compiles; a mean would compare that with the prediction."""
    for number, seconds in enumerate((90.0, 1.0, 2.0)):
        told.step(number, loss=4.0 - number, seconds=seconds)
    told.progress.ended({"memoryx": 2**20, "system0": 2**21}, {})

    assert summary_of(told, predicted_s=1.5) == {
        "steps": "0 to 3",
        "loss": "4.0000 to 2.0000",
        "samples/s": pytest.approx(24 / 93),
        "seconds": 60.0,
        "s/step": "2.000 measured, 1.500 predicted",
        "memory": "7.00 MiB predicted for all roles, beyond Python and PyTorch",
        "peak memory": "2 MiB in the largest process",
        "folder": str(told.folder.path),
    }


def test_the_summary_tells_of_device_memory_where_there_is_some(told):
    """The largest of each: systems differ, and what does not fit is the largest."""
    told.progress.ended({}, {"system0": 2**20, "system1": 2**22})

    text = summary_of(told)["device memory"]
    assert text == "4.00 MiB allocated at most by a system's process, 5.00 MiB predicted for one system"


def test_a_step_begins_on_the_timeline_when_its_first_system_does(told):
    """MemoryX works ahead of a step, so that its spans say nothing of where the step begins."""
    spans = [SimpleNamespace(lane=f"system{n}", name="forward", start_s=5.0 - n, end_s=9.0) for n in (0, 1)]
    ahead = SimpleNamespace(lane="memoryx stream", name="read", start_s=1.0, end_s=2.0)
    results = tuple(SimpleNamespace(spans=(span,)) for span in spans)

    told.step(0, spans=(*spans, ahead), results=results)

    assert told.progress.timeline.marks == {1: 4.0}
    assert told.progress.timeline.lanes() == ["system0", "system1", "memoryx stream"]
