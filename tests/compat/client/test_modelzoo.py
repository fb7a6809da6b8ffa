"""`cszoo`, the command of the vendor's ModelZoo, trains and evaluates on this appliance as on the client's CPU backend.

Needs ModelZoo in the client's environment, which `make client-test` makes; skipped without it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from client_appliance import PYTHON, Appliance, finish, in_client, needs_client

pytestmark = needs_client
CONFIG = Path(__file__).parent / "modelzoo" / "params_gpt2.yaml"
VOCABULARY, LENGTH = 512, 32


class Zoo:
    """One appliance, one data set, and a folder for each run."""

    def __init__(self, appliance: Appliance, folder: Path) -> None:
        self.appliance, self.folder = appliance, folder
        (folder / "data").mkdir()
        write_samples(folder / "data" / "examples.h5")

    def run(self, command: str, device: str, name: str, *options: str, every: int = 10) -> str:
        """What `cszoo COMMAND` prints; checkpoints are in the folder `name`. every: steps from evaluation to evaluation."""
        words = {
            "DATA": str(self.folder / "data"),
            "MODEL_DIR": str(self.folder / name),
            "DEVICE": device,
            "EVERY": str(every),
        }
        config = self.folder / f"{name}.yaml"
        text = CONFIG.read_text()
        for word, value in words.items():
            text = re.sub(rf": {word}$", f": {value}", text, flags=re.MULTILINE)
        config.write_text(text)
        if device == "CSX":
            options = (*options, "--mgmt_address", self.appliance.door.address)
            options = (*options, "--mount_dirs", str(self.folder / "data"))
        program = str(Path(PYTHON).parent / "cszoo")
        return finish(in_client([program, command, str(config), *options], self.folder))


def write_samples(file: Path) -> None:
    """Sequences in which each token follows from the one before, as ModelZoo keeps them: tokens, loss mask, labels."""
    generator = np.random.default_rng(1)
    starts, steps = generator.integers(0, VOCABULARY, (512, 1)), generator.integers(1, 4, (512, 1))
    tokens = (starts + steps * np.arange(LENGTH + 1)) % VOCABULARY
    data = np.stack([tokens[:, :-1], np.ones((512, LENGTH)), tokens[:, 1:]], 1).astype(np.int32)
    with h5py.File(file, "w") as out:
        out.attrs["n_examples"] = len(data)
        out.create_dataset("data", data=data)


def losses(output: str) -> list[float]:
    """Of each training step, as the progress log says them."""
    return [float(loss) for loss in re.findall(r"\| Train Device=\w+, Step=\d+, Loss=([\d.]+)", output)]


def evaluations(output: str) -> list[dict[str, float]]:
    """Of each evaluation the metrics, as the log says them when it ends."""
    found: list[dict[str, float]] = []
    for line in output.splitlines():
        if line.endswith("Evaluation metrics:"):
            found.append({})
        elif metric := re.search(r"  - (\S+) = ([\d.]+)$", line):
            found[-1][metric[1]] = float(metric[2])
    return found


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    if subprocess.run([PYTHON, "-c", "import cerebras.modelzoo"], capture_output=True).returncode:
        pytest.skip("the client's environment has no ModelZoo")
    appliance = Appliance(tmp_path_factory.mktemp("state"))
    yield Zoo(appliance, tmp_path_factory.mktemp("zoo"))
    appliance.close()


@pytest.fixture(scope="module")
def trained(zoo: Zoo) -> str:
    """The log of 20 steps with an evaluation after 10 and after 20."""
    return zoo.run("fit", "CSX", "here")


def test_fit_trains_and_evaluates_as_on_the_clients_own_backend(zoo: Zoo, trained: str) -> None:
    """Both compute in float16 with loss scaling; sums are added in another order.

    On the appliance training goes on after an evaluation where its data stopped; the CPU backend begins them anew, so it
    evaluates at the end alone.
    """
    there = zoo.run("fit", "CPU", "there", every=20)

    assert len(losses(trained)) == 20
    assert losses(trained) == pytest.approx(losses(there), rel=2e-3)
    assert [set(found) for found in evaluations(trained)] == [{"eval/accuracy", "eval/lm_perplexity"}] * 2
    ours, theirs = evaluations(trained)[-1], evaluations(there)[-1]
    assert ours["eval/lm_perplexity"] == pytest.approx(theirs["eval/lm_perplexity"], rel=1e-2)
    assert ours["eval/accuracy"] == pytest.approx(theirs["eval/accuracy"], abs=1e-2)


def test_validate_sees_what_the_evaluation_in_fit_saw(zoo: Zoo, trained: str) -> None:
    """The weights go from the appliance through the checkpoint back to it."""
    checkpoint = str(zoo.folder / "here" / "checkpoint_20.mdl")
    log = zoo.run("validate", "CSX", "validated", "--checkpoint_path", checkpoint)

    assert evaluations(log) == [pytest.approx(evaluations(trained)[-1], rel=1e-5)]


def test_fit_goes_on_from_a_checkpoint(zoo: Zoo, trained: str) -> None:
    """Weights, optimizer, schedules, loss scale and the place in the data are those of the run that never stopped."""
    log = zoo.run("fit", "CSX", "again", "--checkpoint_path", str(zoo.folder / "here" / "checkpoint_10.mdl"))

    assert losses(log) == pytest.approx(losses(trained)[10:], rel=1e-5)
