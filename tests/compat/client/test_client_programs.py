"""Unmodified programs of the vendor's client, in its own environment, train on this appliance.

    OPENWAFER_TEST_CLIENT=/path/of/the/environment/bin/python pytest tests/compat/client

docs/client.md says how to make the environment (several GB); without it these tests are skipped. Their reference is the
client's own CPU backend, which computes in float32; the appliance computes as the program's CIRH says, in half precision.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_appliance import LEASE_S, Appliance, needs_client, wait_until

pytestmark = needs_client


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    opened = Appliance(tmp_path_factory.mktemp("state"))
    yield opened
    opened.close()


@pytest.mark.parametrize("program", ["mlp", "gpt2", "bert", "vit"])
def test_losses_equal_those_of_the_clients_own_backend(
    appliance: Appliance, tmp_path: Path, program: str
) -> None:
    """50 steps in half precision beside the same in float32: 2 % of a loss, which is some ten roundings of each."""
    here = appliance.losses(program, tmp_path / "csx", "--steps", "50")
    there = appliance.losses(program, tmp_path / "cpu", "--steps", "50", backend="CPU")

    assert len(here) == 50
    assert here == pytest.approx(there, rel=0.02, abs=0.02)


def test_two_systems_equal_one(appliance: Appliance, tmp_path: Path) -> None:
    """Each sees half of every batch; partial sums are rounded to half precision elsewhere."""
    one = appliance.losses("gpt2", tmp_path / "one", "--steps", "20")
    two = appliance.losses("gpt2", tmp_path / "two", "--steps", "20", "--systems", "2")

    assert two == pytest.approx(one, rel=1e-3)


def test_weights_stay_between_training_and_evaluation(appliance: Appliance, tmp_path: Path) -> None:
    """Three sessions in one job: what evaluation sees is what training left, and training goes on from there."""
    appliance.losses("phases", tmp_path / "csx")
    appliance.losses("phases", tmp_path / "cpu", backend="CPU")
    here, there = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("csx", "cpu"))

    assert [len(part) for part in here] == [5, 5, 5]
    for ours, theirs in zip(here, there, strict=True):
        assert ours == pytest.approx(theirs, rel=5e-3)


def test_a_run_goes_on_from_the_clients_checkpoint(appliance: Appliance, tmp_path: Path) -> None:
    """The .mdl file that the client wrote from our weights holds all that both backends need."""
    appliance.losses("mlp", tmp_path / "first", "--steps", "10", "--checkpoint-steps", "5")
    checkpoint = str(tmp_path / "first" / "checkpoint_5.mdl")
    here = appliance.losses("mlp", tmp_path / "csx", "--steps", "10", "--resume", checkpoint)
    there = appliance.losses("mlp", tmp_path / "cpu", "--steps", "10", "--resume", checkpoint, backend="CPU")

    assert here == pytest.approx(there, rel=5e-3)


@pytest.mark.parametrize(("number", "state"), [(signal.SIGINT, "cancelled"), (signal.SIGKILL, "cancelled")])
def test_a_client_that_ends_takes_its_job_along(
    appliance: Appliance, tmp_path: Path, number: signal.Signals, state: str
) -> None:
    """Ctrl-C is told by the client; after kill -9 the lease runs out. Neither leaves a system taken."""
    process = appliance.start("mlp", tmp_path / "run", "--steps", "1000000")
    losses = tmp_path / "run" / "losses.json"
    wait_until(lambda: losses.exists(), 120)
    job = next(job for job in appliance.node.queue() if job.spec.kind == "execute")

    process.send_signal(number)
    wait_until(lambda: appliance.node.job(job.id).is_final, LEASE_S + 90)
    process.kill()
    process.communicate()

    assert appliance.node.job(job.id).state == state
