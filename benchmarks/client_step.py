"""A step of an unmodified program of the vendor's client, beside the same model native and the client's own CPU backend.

    python benchmarks/client_step.py --client PYTHON --json client_step.json

PYTHON is the interpreter of the client's environment (docs/client.md). The program is tests/compat/client/programs/gpt2.py in
bfloat16: AdamW, warm-up and cosine decay, clipping by the global norm. Contestants, in turn within each round:

    client    on an appliance of one system: CIRH, its Plan, batches from the client's own pipeline in its sandbox
    native    the program's own model classes in `openwafer.Trainer`, on one system, under bf16 autocast
    cpu       the program on the client's CPU backend

Each computes on all cores that this script may use (`taskset` gives it fewer). s/step is from the loss of step --skip to the
last loss, as whoever started the run sees them come, over the steps between. to first: from the start of the program until
its first loss; the first round compiles, later ones find the compiled program.
The last line: how long the CIRH of the same model with --plan-layers layers, of width --plan-hidden, takes to parse and plan.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from _common import ROOT, describe_machine, entry, finish, parser_of, print_table, run_worker, workspace
from _worker import Settings

from openwafer.base import EngineError, InputError

PROGRAM = ROOT / "tests" / "compat" / "client" / "programs" / "gpt2.py"
WAFER = (sys.executable, "-m", "openwafer.cli")
CONTESTANTS = ("client", "native", "cpu")
RUN_S = 600.0
LEARNING_RATE = 3e-3


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--client", type=Path, help="the interpreter of the client's environment")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--skip", type=int, default=4, help="steps that do not count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plan-layers", type=int, default=12)
    parser.add_argument("--plan-hidden", type=int, default=768)
    options = parser.parse_args()
    if options.client is None or not options.client.is_file():
        raise InputError(
            "name the Python of the client's environment with --client; docs/client.md makes one"
        )
    if not 1 <= options.skip < options.steps or options.rounds < 1:
        raise InputError("give --skip from 1 to below --steps, and --rounds at least 1")
    print(describe_machine(), flush=True)
    rounds: list[dict[str, dict[str, float]]] = []
    with workspace(options.folder) as folder:
        node, address = _appliance(folder)
        try:
            for number in range(options.rounds):
                here = folder / str(number)
                run = {
                    "client": lambda h=here: _client(options, h / "client", "CSX", address),
                    "native": lambda: run_worker(__file__, "native", _settings(options)),
                    "cpu": lambda h=here: _client(options, h / "cpu", "CPU", address),
                }
                rounds.append({name: run[name]() for name in CONTESTANTS})
                took = ", ".join(f"{name} {rounds[-1][name]['step_s']:.3f}" for name in CONTESTANTS)
                print(f"round {number + 1} of {options.rounds}: {took} s/step", flush=True)
        finally:
            node.terminate()
            node.wait()
        planned = _planned(options, folder)
    rows = []
    for name in CONTESTANTS:
        step = [each[name]["step_s"] for each in rounds]
        speed = [each["native"]["step_s"] / each[name]["step_s"] for each in rounds]
        first = [each[name]["first_s"] for each in rounds]
        rows.append(
            [
                name,
                f"{statistics.median(step):.3f}",
                f"{statistics.median(speed):.3f}",
                f"{min(speed):.3f} to {max(speed):.3f}",
                f"{first[0]:.1f}",
                f"{statistics.median(first[1:] or first):.1f}",
            ]
        )
    header = ["", "s/step", "speed, of native", "by round", "to first, s", "compiled, s"]
    print_table(header, rows)
    print(
        f"parse and plan of {options.plan_layers} layers of {options.plan_hidden}: {planned['seconds']:.2f} s "
        f"({planned['characters']:,} characters of CIRH)"
    )
    finish(options, {"rounds": rounds, "planned": planned})


def _settings(options: Any) -> Settings:
    names = ("layers", "hidden", "batch", "steps", "skip")
    return {"threads": _threads(), **{name: getattr(options, name) for name in names}}


def _threads() -> int:
    """Of every contestant: an appliance gives its only system all cores that it may use."""
    return len(os.sched_getaffinity(0))


def _appliance(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A cluster of one system, and the address that it gives to clients."""
    command = [*WAFER, "cluster", "up", "--systems", "1", "--folder", str(folder / "state"), "--port", "0"]
    node = subprocess.Popen(
        [*command, "--client-port", "0"],
        env={**os.environ, "XDG_CONFIG_HOME": str(folder / "config")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdout is not None
    for line in node.stdout:
        if (found := re.search(r"mgmt_address='([^']+)'", line)) is not None:
            return node, found[1]
    node.wait()
    raise EngineError("the appliance ended before it served the client; is cerebras_appliance installed?")


def _client(options: Any, folder: Path, backend: str, address: str) -> dict[str, float]:
    """Run the program; its losses lie in a file that grows by one with each step."""
    began = time.perf_counter()
    program = _start(
        options,
        folder,
        ("--backend", backend, "--address", address, "--steps", str(options.steps)),
        options.layers,
        options.hidden,
    )
    try:
        return _figures(began, _arrivals(folder / "losses.json", options.steps, program), options.skip)
    finally:
        _end(program)


def _start(
    options: Any, folder: Path, words: Sequence[str], layers: int, hidden: int
) -> subprocess.Popen[bytes]:
    shape = ("--layers", str(layers), "--hidden", str(hidden), "--batch", str(options.batch))
    threads = str(_threads())
    folder.mkdir(parents=True)
    environment = {
        **os.environ,
        "PATH": f"{options.client.parent}{os.pathsep}{os.environ.get('PATH', '')}",  # the client's own compiler
        "OMP_NUM_THREADS": threads,
        "TORCH_NUM_THREADS": threads,
    }
    words = ("--half", "bfloat16", "--folder", str(folder), *shape, *words)
    with open(folder / "output", "wb") as output:
        return subprocess.Popen(
            [str(options.client), str(PROGRAM), *words],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _arrivals(losses: Path, steps: int, program: subprocess.Popen[bytes]) -> list[float]:
    """When each loss was there."""
    times: list[float] = []
    end = time.monotonic() + RUN_S
    while len(times) < steps:
        status = program.poll()
        with suppress(OSError, ValueError):  # not there yet, or not whole
            times += [time.perf_counter()] * (len(json.loads(losses.read_text())) - len(times))
        if len(times) < steps and (status is not None or time.monotonic() > end):
            raise EngineError(
                f"the program ended with status {status} after {len(times)} steps:\n{_said(losses)}"
            )
        time.sleep(0.002)
    return times


def _said(losses: Path) -> str:
    return "\n".join(losses.with_name("output").read_text(errors="replace").splitlines()[-30:])


def _end(program: subprocess.Popen[bytes]) -> None:
    """A program that has all of its losses still says good-bye to the appliance."""
    try:
        program.wait(60)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()


def _figures(began: float, times: list[float], skip: int) -> dict[str, float]:
    return {"step_s": (times[-1] - times[skip - 1]) / (len(times) - skip), "first_s": times[0] - began}


def _planned(options: Any, folder: Path) -> dict[str, Any]:
    here = folder / "plan"
    program = _start(
        options,
        here,
        ("--backend", "CSX", "--validate-only", "--steps", "1"),
        options.plan_layers,
        options.plan_hidden,
    )
    program.wait()
    found = sorted(here.rglob("cirh.mlir"))
    if not found:
        raise EngineError(f"the client wrote no CIRH:\n{_said(here / 'losses.json')}")
    return run_worker(__file__, "plan", {"text": str(found[0])})


def plan(settings: Settings) -> dict[str, Any]:
    """Worker: parse a program and plan it for one system."""
    from openwafer.compat.cirh import Program
    from openwafer.graph import PlanOptions

    text = Path(settings["text"]).read_text()
    began = time.perf_counter()
    program = Program.parse(text, "cirh.mlir")
    program.plan(PlanOptions(batch=program.batch, evaluate=False))
    return {"seconds": time.perf_counter() - began, "characters": len(text)}


def native(settings: Settings) -> dict[str, float]:
    """Worker: the program's model in our Trainer."""
    began = time.perf_counter()
    import torch
    import torch.nn.functional as F
    from rich.console import Console

    from openwafer.train import LocalCluster, Trainer
    from openwafer.train.optim import AdamW, WarmupCosine, clip_by_global_norm

    program = _model_classes()
    torch.manual_seed(1)
    rows = settings["batch"] * settings["steps"]
    tokens_NL = torch.randint(0, program.VOCABULARY, (rows, program.LENGTH + 1))
    data = torch.utils.data.TensorDataset(tokens_NL[:, :-1].contiguous(), tokens_NL[:, 1:].contiguous())
    loader = torch.utils.data.DataLoader(data, batch_size=settings["batch"])
    schedule = WarmupCosine(peak=LEARNING_RATE, warmup_steps=5, steps=105, end=LEARNING_RATE / 10)
    optimizer = AdamW(lr=schedule, betas=(0.9, 0.95), weight_decay=0.1)

    def loss(logits_BLV: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits_BLV.flatten(0, 1), labels_BL.flatten())

    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        Trainer(
            program.Gpt2(settings["layers"], settings["hidden"], 0.0),
            optimizer=clip_by_global_norm(optimizer, 1.0),
            loss=loss,
            cluster=LocalCluster(execution="weight_streaming", threads=settings["threads"]),
            precision="bf16-autocast",
            folder=folder,
            console=Console(file=nowhere),
        ).fit(
            loader,
            steps=settings["steps"],
            overwrite=True,
            callbacks=[lambda _: times.append(time.perf_counter())],
        )
    return _figures(began, times, settings["skip"])


def _model_classes() -> Any:
    """The program as a module, without the client: its model is plain PyTorch, and the rest is not called."""
    for name in ("cerebras", "cerebras.pytorch", "common"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["cerebras"].pytorch = sys.modules["cerebras.pytorch"]  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("client_gpt2", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WORKERS: dict[str, Callable[[Settings], dict[str, Any]]] = {"native": native, "plan": plan}

if __name__ == "__main__":
    entry(main, WORKERS)
