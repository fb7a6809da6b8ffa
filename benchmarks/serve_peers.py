"""Tokens per second of inference beside llama.cpp and transformers, all in bfloat16 on the CPU.

    python benchmarks/serve_peers.py --llama-python /an/environment/bin/python --folder /a/folder/with/5GB

The model has the shape of TinyLlama (1.1B: 22 layers, 2048 hidden, 32 heads, 4 of keys and values, 5632 intermediate, 32,000
tokens) and random weights, the same for all. llama.cpp comes from the packages llama-cpp-python and gguf, in an environment
that `--llama-python` names; a peer that is not installed is left out, which is said.

    contestant     what runs
    engine         requests to openwafer's Engine, everything but HTTP: scheduling, sampling, text
    executor       openwafer's ResidentExecutor: batches in, logits out
    llama.cpp      llama_decode; its threads are --threads for prompts as for answers
    transformers   LlamaForCausalLM with its own cache

Every contestant is a process of its own that loads the model, computes alone, and ends; they take turns, --rounds times for
each number of threads. A figure is tokens per second of all steps after the first, of the rounds the median. decode 1: one
answer goes on after a prompt of 64 tokens. decode 8: eight do, in one batch; 8 : 1 is how many times as many tokens that
gives, in the same process: on a virtual machine what memory a process got decides how fast that can be read. prefill N: a
prompt of N tokens up to the first token after it. of bound: bytes of the weights that one token needs (all but the
embedding) through the bytes that the native probe reads in the same time, just before, in memory of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _common import describe_machine, entry, finish, need_disk, parser_of, print_table, run_worker, workspace
from _serve_model import SHAPES, numbers_of, write_model
from _serve_rates import measured, prompts, timed
from _worker import Settings

from openwafer.base import MIB, InputError

LLAMA = Path(__file__).with_name("_serve_llama.py")
PROMPT_TOKENS = 64
SEQUENCES = 8
PREFILLS = (128, 512)
PROBE_BYTES, PROBES = 256 * MIB, 5
FIGURES = ("decode 1", "decode 8", *(f"prefill {count}" for count in PREFILLS))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1], metavar="COUNT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24, help="of each decoding")
    parser.add_argument("--prompts", type=int, default=2, help="of each length in a round")
    parser.add_argument(
        "--llama-python", default=sys.executable, metavar="FILE", help="a Python with llama_cpp and gguf"
    )
    options = parser.parse_args()
    if min(*options.threads, options.rounds, options.prompts) < 1 or options.steps < 2:
        raise InputError("give --threads, --rounds and --prompts at least 1, and --steps at least 2")
    found, missing = contestants(options.llama_python)
    print(describe_machine(), flush=True)
    for name, why in missing.items():
        print(f"{name} is left out: {why}", flush=True)
    with workspace(options.folder) as folder:
        settings: Settings = {
            "folder": str(folder / "model"),
            "gguf": str(folder / "model.gguf"),
            "steps": options.steps,
            "prompts": options.prompts,
            "prompt_tokens": PROMPT_TOKENS,
            "sequences": SEQUENCES,
            "prefills": PREFILLS,
            "vocabulary": SHAPES[options.shape]["vocab_size"],
        }
        config = SHAPES[options.shape]
        copies = 2 if "llama.cpp" in found else 1
        need_disk(folder, 2 * copies * numbers_of(config), "the weights")
        needed = run_worker(__file__, "model", settings | {"config": config})["needed"]
        if "llama.cpp" in found:
            run_worker(LLAMA, "gguf", settings, python=options.llama_python)
        rounds = []
        for threads in options.threads:
            for number in range(options.rounds):
                rounds.append(one_round(found, settings | {"threads": threads}, options.llama_python))
                print(f"{threads} threads, round {number + 1} of {options.rounds}", flush=True)
    show(found, rounds, needed)
    finish(options, {"contestants": found, "missing": missing, "needed": needed, "rounds": rounds})


def contestants(llama_python: str) -> tuple[list[str], dict[str, str]]:
    """Those that can run here, and why others cannot."""
    found, missing = ["engine", "executor"], {}
    try:
        have = subprocess.run(
            [llama_python, "-c", "import llama_cpp, gguf"], capture_output=True, text=True
        ).returncode
    except OSError:
        have = 1
    if have == 0:
        found.append("llama.cpp")
    else:
        missing["llama.cpp"] = (
            f"{llama_python} cannot import llama_cpp and gguf; name another with --llama-python"
        )
    if find_spec("transformers") is not None:
        found.append("transformers")
    else:
        missing["transformers"] = "it is not installed here"
    return found, missing


def one_round(found: list[str], settings: Settings, llama_python: str) -> dict[str, Any]:
    """Each contestant once, after the probe."""
    environment = {"OMP_NUM_THREADS": str(settings["threads"])}
    figures: dict[str, Any] = {"threads": settings["threads"]}
    for name in found:
        probed = run_worker(__file__, "probe", settings)
        if name == "llama.cpp":
            figures[name] = run_worker(LLAMA, "llama", settings, python=llama_python)
        else:
            figures[name] = run_worker(__file__, name, settings, environment=environment)
        figures[name] |= probed
    return figures


def show(found: list[str], rounds: list[dict[str, Any]], needed: int) -> None:
    """The table: medians over the rounds."""
    rows = []
    for threads in dict.fromkeys(each["threads"] for each in rounds):
        those = [each for each in rounds if each["threads"] == threads]
        probes = [each[name]["probe"] / 1e9 for each in those for name in found]
        print(f"{threads} threads: the probe read {min(probes):.0f} to {max(probes):.0f} GB/s", flush=True)
        for name in found:
            rates = {figure: statistics.median(each[name][figure] for each in those) for figure in FIGURES}
            bound = statistics.median(each[name]["decode 1"] * needed / each[name]["probe"] for each in those)
            rows.append(
                [name, threads, f"{rates['decode 1']:.2f}", f"{bound:.2f}", f"{rates['decode 8']:.1f}"]
                + [
                    f"{statistics.median(each[name]['decode 8'] / each[name]['decode 1'] for each in those):.2f}"
                ]
                + [f"{rates[f'prefill {count}']:.0f}" for count in PREFILLS]
            )
    header = ["contestant", "threads", "decode 1", "of bound", "decode 8", "8 : 1"]
    print_table([*header, *(f"prefill {count}" for count in PREFILLS)], rows)


# --- workers ----------------------------------------------------------------------------------------------


def model(settings: Settings) -> dict[str, Any]:
    """Worker: write the model."""
    return {"needed": write_model(Path(settings["folder"]), settings["config"])}


def probe(settings: Settings) -> dict[str, Any]:
    """Worker: bytes per second of a loop over memory that only reads; the median of a few times."""
    import torch

    from openwafer.serve.kernels import set_threads
    from openwafer.serve.kernels._load import native
    from openwafer.serve.model import new_tensor

    set_threads(settings["threads"])
    memory = new_tensor((PROBE_BYTES,), torch.uint8)
    memory.fill_(1)
    seconds = [timed(lambda: native.read_probe(memory.data_ptr(), PROBE_BYTES)) for _ in range(PROBES)]
    return {"probe": PROBE_BYTES / statistics.median(seconds)}


def blocks_of(settings: Settings) -> int:
    """Blocks of the cache that a sequence may need."""
    from openwafer.serve.executors import BLOCK_TOKENS

    longest = max(*settings["prefills"], settings["prompt_tokens"] + settings["steps"])
    return -(-(longest + 1) // BLOCK_TOKENS)


def opened(settings: Settings) -> Any:
    """openwafer's executor with room for all that is asked here."""
    import torch

    from openwafer.serve.executors import ResidentExecutor
    from openwafer.serve.kernels import set_threads
    from openwafer.serve.model import Checkpoint, Precision

    torch.set_num_threads(settings["threads"])
    set_threads(settings["threads"])
    blocks = settings["sequences"] * blocks_of(settings) + 1
    return ResidentExecutor(Checkpoint(settings["folder"]), Precision(torch.bfloat16), blocks, "cpu")


def executor(settings: Settings) -> dict[str, Any]:
    """Worker: batches to the executor, the likeliest token next."""
    import torch

    from openwafer.serve.executors import Batch

    executor = opened(settings)
    blocks = blocks_of(settings)

    def run(tokens: list[list[int]], contexts: list[int]) -> list[int]:
        """Some sequences' new tokens after so many of theirs; the likeliest next ones."""
        starts = [0]
        for new in tokens:
            starts.append(starts[-1] + len(new))
        places = [range(context, context + len(new)) for new, context in zip(tokens, contexts, strict=True)]
        batch = Batch(
            tokens_T=torch.tensor([token for new in tokens for token in new]),
            positions_T=torch.tensor([place for each in places for place in each]),
            starts=tuple(starts),
            contexts=tuple(each.stop for each in places),
            tables_SB=torch.arange(len(tokens) * blocks, dtype=torch.int32).view(-1, blocks),
            outputs=tuple(stop - 1 for stop in starts[1:]),
        )
        executor.submit(batch)
        chosen: list[int] = executor.collect().argmax(-1).tolist()
        return chosen

    found = measured(settings, run)
    executor.close()
    return found


def engine(settings: Settings) -> dict[str, Any]:
    """Worker: requests to the engine, by the times that its answers tell."""
    from openwafer.serve.engine import Engine, Request, Sampling
    from openwafer.serve.text import Tokenizer

    engine = Engine(opened(settings), Tokenizer.load(settings["folder"]))

    async def ask(count: int, prompt_tokens: int, answer_tokens: int) -> list[tuple[float, int, Any]]:
        """So many requests at once; for each piece when it came, whose it is, its tokens, and what it says of times."""
        pieces = []

        async def follow(number: int, prompt: list[int]) -> None:
            request = Request(
                id=str(number),
                prompt=tuple(prompt),
                sampling=Sampling(temperature=0),
                max_tokens=answer_tokens,
                min_tokens=answer_tokens,
            )
            async for piece in engine.submit(request):
                pieces.append((time.perf_counter(), number, len(piece.tokens), piece.times))

        asked = prompts(settings, count, prompt_tokens)
        await asyncio.gather(*(follow(number, prompt) for number, prompt in enumerate(asked)))
        return pieces

    found = {}
    asyncio.run(ask(1, settings["prompt_tokens"], 2))
    for count in (1, settings["sequences"]):
        # The first begin while others' prompts are computed: what counts is when all go on, and none has ended.
        pieces = asyncio.run(ask(count, settings["prompt_tokens"], settings["steps"] + count))
        own = [[when for when, whose, _, _ in pieces if whose == number] for number in range(count)]
        begun, ended = max(times[0] for times in own), min(times[-1] for times in own)
        if ended <= begun:
            raise InputError(
                f"--steps {settings['steps']} are over before {count} answers are timed; give more"
            )
        tokens = sum(new for when, _, new, _ in pieces if begun < when <= ended)
        found[f"decode {count}"] = tokens / (ended - begun)
    for length in settings["prefills"]:
        seconds = [asyncio.run(ask(1, length, 1))[-1][-1].prompt_s for _ in range(settings["prompts"])]
        found[f"prefill {length}"] = length / statistics.median(seconds)
    engine.stop()
    return found


def transformers(settings: Settings) -> dict[str, Any]:
    """Worker: the model of the same name, with its cache."""
    import torch
    from transformers import DynamicCache, LlamaForCausalLM

    torch.set_num_threads(settings["threads"])
    model = LlamaForCausalLM.from_pretrained(settings["folder"], dtype=torch.bfloat16)
    cache = DynamicCache()

    @torch.inference_mode()
    def run(tokens: list[list[int]], contexts: list[int]) -> list[int]:
        nonlocal cache
        if contexts[0] == 0:
            cache = DynamicCache()
        out = model(torch.tensor(tokens), past_key_values=cache, use_cache=True, logits_to_keep=1)
        chosen: list[int] = out.logits[:, -1].argmax(-1).tolist()
        return chosen

    return measured(settings, run)


if __name__ == "__main__":
    entry(main, {each.__name__: each for each in (model, probe, executor, engine, transformers)})
