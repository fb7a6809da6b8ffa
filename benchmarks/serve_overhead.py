"""What scheduling, choosing tokens and HTTP cost beside a decode step of eight answers.

    python benchmarks/serve_overhead.py --folder /a/folder/with/3GB --json serve_overhead.json
    python benchmarks/serve_overhead.py --parts idle --step-ms 50

served: a model of serve_peers.py's shape, with random weights in bfloat16, on the CPU, behind the whole server; eight clients
in another process read streams over loopback. Each batch of all eight is computed twice: when the engine submits it, while
HTTP sends what the batch before it gave, and once more, alone, when that is long done. The second time is the decode step.
A step's overhead is the time between its logits and the engine's next batch (`between`), and what the first time was longer
than the second. Both lie within a tenth of a second, so that a machine that others use is compared with itself; the table has
medians over all steps. The clients only count what they read, because they share the cores that compute; each goes away
after --steps pieces with which the other seven were being answered too.

idle: the executor computes nothing: it returns random logits (normal, times 3, so the nucleus is thousands of tokens wide)
after as long as the step of the first part took, or --step-ms. What counts is the time between its giving logits and its
getting the next batch, in which an accelerator would be idle: median and 95th percentile, over the steps in which all eight
answers go on. `CPU` is what all threads of the process compute in a step, also while the executor is at work (a grammar's
masks, and HTTP). `engine` rows have readers in threads; `HTTP` rows the whole server.

The vocabularies are made up: random words, as many as Llama 2 (32,000) and Llama 3 (128,256) have tokens.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import uvicorn
from _common import describe_machine, entry, finish, need_disk, parser_of, print_table, run_worker, workspace
from _serve_model import SHAPES, numbers_of, write_model
from _worker import steps_of
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from openwafer.base import InputError, configure_logs
from openwafer.serve.api import Settings, make_app
from openwafer.serve.engine import Engine, Grammar, Request, Sampling
from openwafer.serve.executors import BLOCK_TOKENS, Batch, ResidentExecutor
from openwafer.serve.kernels import set_threads
from openwafer.serve.model import Checkpoint, ModelConfig, Precision
from openwafer.serve.text import ChatTemplate, Tokenizer

PARTS = ("served", "idle")
ANSWERS = 8
CONTEXT_BLOCKS = 16
"""Of 128 tokens, for each answer: its limit. It ends before, because its reader goes away."""
SPECIAL = ("<|begin|>", "<|end|>")
NEVER = -30.0
"""The logit of the end, with which an answer does not end by itself."""
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }}\n{% endfor %}"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 400},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
NEVER_TOGETHER = (
    f"{ANSWERS} answers were not under way together: the first ended at its limit before the last began; leave the machine "
    "more of its cores and run this again"
)
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature": {"temperature": 1},
    "temperature, top_p": {"temperature": 0.8, "top_p": 0.9},
    "logprobs 5": {"temperature": 0, "logprobs": 5},
    "penalties": {"temperature": 1, "frequency_penalty": 0.5},
    "JSON schema": {"temperature": 1, "schema": True},
}
HTTP_CASES = ("greedy", "temperature, top_p", "logprobs 5", "JSON schema")


def tokenizer_of(vocabulary: int) -> Tokenizer:
    """The 256 bytes, a beginning and an end, and random words of letters that are more and less common."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = dict.fromkeys(bytes_)
    letters = "etaoinshrdlucmfwypvbgkqjxzETAOINSHRDLU0123456789.,-_"
    draw = torch.Generator().manual_seed(0)
    while len(words) < vocabulary - len(SPECIAL):
        length = int(torch.randint(2, 9, (), generator=draw))
        places = torch.empty(length).geometric_(0.07, generator=draw).long().clamp(max=len(letters)) - 1
        words.setdefault("".join(letters[i] for i in places.tolist()))
    backend = Backend(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return Tokenizer(backend, end_tokens=[vocabulary - 1], names={"bos_token": SPECIAL[0]})


class IdleExecutor:
    """Takes as long as a model would, computes nothing, and notes how long it had nothing to do."""

    blocks = ANSWERS * CONTEXT_BLOCKS
    in_flight = 1
    busy_s = (0.0,)

    def __init__(self, folder: Path, vocabulary: int, step_s: float) -> None:
        values = {
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": BLOCK_TOKENS * CONTEXT_BLOCKS,
            "eos_token_id": vocabulary - 1,
        }
        (folder / "config.json").write_text(json.dumps(values))
        self.config = ModelConfig.from_folder(folder)
        self._step_s = step_s
        draw = torch.Generator().manual_seed(0)
        self._logits = [torch.randn(ANSWERS, vocabulary, generator=draw) * 3 for _ in range(4)]
        for logits_RV in self._logits:
            logits_RV[:, -1] = NEVER
        self._outputs = 0
        self._submitted = self._collected = 0.0
        self._cpu_s = 0.0
        self.steps: list[tuple[float, float]] = []
        """Seconds idle before each step of ANSWERS tokens, and CPU seconds since the one before."""

    def submit(self, batch: Batch) -> None:
        self._submitted = time.perf_counter()
        cpu_s = time.process_time()
        if len(batch.tokens_T) == self._outputs == ANSWERS:
            self.steps.append((self._submitted - self._collected, cpu_s - self._cpu_s))
        self._outputs, self._cpu_s = len(batch.outputs), cpu_s

    def collect(self) -> torch.Tensor:
        cpu_s = time.thread_time()
        logits_RV = self._logits[len(self.steps) % len(self._logits)][: self._outputs].clone()
        self._cpu_s += time.thread_time() - cpu_s  # a model's logits are there
        time.sleep(max(0.0, self._submitted + self._step_s - time.perf_counter()))
        self._collected = time.perf_counter()
        return logits_RV

    def close(self) -> None: ...


class Together:
    """Says when a reader of one of ANSWERS answers has had enough: so many pieces after all of them have begun."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._begun: set[int] = set()
        self._last: dict[int, int] = {}

    def enough(self, number: int, pieces: int) -> bool:
        """Reader `number` has had so many pieces. Any thread may ask for its own answer."""
        self._begun.add(number)
        if len(self._begun) < ANSWERS:
            return False
        return pieces >= self._last.setdefault(number, pieces + self._steps)


def in_threads(case: dict[str, Any], steps: int, engine: Engine, tokenizer: Tokenizer) -> None:
    """Eight requests, read by as many threads."""
    values, together = dict(case), Together(steps)
    grammar = Grammar("json_schema", json.dumps(SCHEMA)) if values.pop("schema", False) else None
    logprobs = values.pop("logprobs", None)

    def read(number: int) -> None:
        request = Request(
            str(number),
            (number, 1, 2, 3),
            Sampling(**values, seed=number),
            grammar=grammar,
            logprobs=logprobs,
        )
        answer = engine.submit(request)
        for pieces, _ in enumerate(answer, 1):
            if together.enough(number, pieces):
                answer.cancel()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(ANSWERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def clients(settings: dict[str, Any]) -> dict[str, Any]:
    """Worker: eight clients, each of which reads one stream until it has had enough."""
    values, together = dict(settings["case"]), Together(settings["steps"])
    body = {"model": "idle", "messages": [{"role": "user", "content": "why"}], "stream": True}
    if values.pop("schema", False):
        form = {"name": "answer", "strict": True, "schema": SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if top := values.pop("logprobs", None):
        body |= {"logprobs": True, "top_logprobs": top}

    async def read(number: int) -> int:
        content = json.dumps(body | values | {"seed": number}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", settings["port"])
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )
        pieces, status = 0, await reader.readline()
        if b" 200 " not in status:
            raise InputError(f"the server answered {(status + await reader.read()).decode()}")
        last = b""
        while not (pieces and together.enough(number, pieces)):
            data = await reader.read(1 << 16)
            if not data:
                raise InputError(
                    f"{NEVER_TOGETHER} (its stream ended so: {last[-300:].decode(errors='replace')})"
                )
            last, pieces = last[-300:] + data, pieces + data.count(b"data: ")
        writer.close()
        return pieces

    async def read_all() -> list[int]:
        return await asyncio.wait_for(asyncio.gather(*(read(number) for number in range(ANSWERS))), 120)

    return {"pieces": asyncio.run(read_all())}


@contextmanager
def listening(engine: Engine, tokenizer: Tokenizer) -> Iterator[int]:
    """The whole server around an engine; its port."""
    settings = Settings(model="idle", context_tokens=engine.context_tokens)
    app = make_app(engine, tokenizer, ChatTemplate(TEMPLATE, names=tokenizer.names), settings)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def over_http(case: dict[str, Any], steps: int, engine: Engine, tokenizer: Tokenizer) -> None:
    """The same through the server, read by another process."""
    with listening(engine, tokenizer) as port:
        run_worker(__file__, "clients", {"port": port, "case": case, "steps": steps})
        while engine.statistics().running:  # the server notices that its clients went away
            time.sleep(0.001)


def measure(
    folder: Path,
    tokenizer: Tokenizer,
    vocabulary: int,
    step_s: float,
    drive: Callable[[Engine, Tokenizer], None],
) -> dict[str, Any]:
    """Milliseconds of each step, without the first few, in which memory is touched for the first time."""
    executor = IdleExecutor(folder, vocabulary, step_s)
    engine = Engine(executor, tokenizer)
    try:
        drive(engine, tokenizer)
    finally:
        engine.stop()
    steps = executor.steps[2:]
    if not steps:
        raise InputError(NEVER_TOGETHER)
    return {"idle_ms": [1e3 * idle for idle, _ in steps], "cpu_ms": [1e3 * cpu for _, cpu in steps]}


class TwiceExecutor:
    """Another executor that computes each batch of ANSWERS tokens, with which ANSWERS sequences go on, a second time."""

    def __init__(self, inner: ResidentExecutor) -> None:
        self.config, self.blocks, self.in_flight = inner.config, inner.blocks, inner.in_flight
        self._inner = inner
        self._logits: list[torch.Tensor] = []
        self._gave: float | None = None
        self.steps: list[dict[str, float]] = []
        """Milliseconds of these batches: `served` and `alone`, and `between` the logits before and the batch."""

    @property
    def busy_s(self) -> tuple[float, ...]:
        return self._inner.busy_s

    def submit(self, batch: Batch) -> None:
        all_go_on = len(batch.tokens_T) == len(batch.outputs) == ANSWERS
        clock = [time.perf_counter()]
        for _ in range(2 if all_go_on else 1):  # the second writes to the cache what the first wrote
            self._inner.submit(batch)
            self._logits.append(self._inner.collect())
            clock.append(time.perf_counter())
        del self._logits[1:]
        if all_go_on and self._gave is not None:
            served, alone = (1e3 * seconds for seconds in steps_of(clock))
            self.steps.append({"between": 1e3 * (clock[0] - self._gave), "served": served, "alone": alone})
        self._gave = clock[-1] if all_go_on else None

    def collect(self) -> torch.Tensor:
        logits_RV = self._logits.pop()
        logits_RV[:, -1] = NEVER
        if self._gave is not None:
            self._gave = time.perf_counter()
        return logits_RV

    def close(self) -> None:
        self._inner.close()


def served(settings: dict[str, Any]) -> dict[str, Any]:
    """Worker: the steps of each case."""
    configure_logs()
    torch.set_num_threads(settings["threads"])
    set_threads(settings["threads"])
    checkpoint = Checkpoint(settings["folder"])
    tokenizer = tokenizer_of(checkpoint.config.vocabulary)
    blocks = ANSWERS * CONTEXT_BLOCKS
    executor = TwiceExecutor(ResidentExecutor(checkpoint, Precision(torch.bfloat16), blocks, "cpu"))
    engine = Engine(executor, tokenizer)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in HTTP_CASES}
    try:
        for _ in range(settings["rounds"]):
            for name in HTTP_CASES:
                executor.steps.clear()
                over_http(CASES[name], settings["steps"], engine, tokenizer)
                if not executor.steps:
                    raise InputError(NEVER_TOGETHER)
                found[name] += executor.steps
    finally:
        engine.stop()
    return found


def show_served(found: dict[str, list[dict[str, float]]]) -> float:
    """The table; returns the step that an idle executor is to take, in milliseconds."""
    rows = []
    for name, steps in found.items():
        middle = {of: statistics.median(step[of] for step in steps) for of in ("alone", "between")}
        slower = statistics.median(step["served"] - step["alone"] for step in steps)
        more = statistics.median(
            (step["between"] + step["served"] - step["alone"]) / step["alone"] for step in steps
        )
        rows.append(
            [
                name,
                len(steps),
                f"{middle['alone']:.2f}",
                f"{middle['between']:.2f}",
                f"{100 * middle['between'] / middle['alone']:.1f} %",
                f"{slower:+.2f}",
                f"{100 * more:.1f} %",
            ]
        )
    print_table(
        ["served", "steps", "alone, ms", "between, ms", "of a step", "slower, ms", "overhead"],
        rows,
    )
    print()
    return statistics.median(step["alone"] for steps in found.values() for step in steps)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--shape", choices=SHAPES, default="1b", help="of the model that is served")
    parser.add_argument("--threads", type=int, default=2, help="of its kernels")
    parser.add_argument("--rounds", type=int, default=3, help="of each case that is served")
    parser.add_argument(
        "--vocabularies",
        nargs="+",
        type=int,
        default=[32_000, 128_256],
        metavar="TOKENS",
        help="of the idle part",
    )
    parser.add_argument("--steps", type=int, default=80, help="pieces of each answer that count")
    parser.add_argument(
        "--step-ms",
        type=float,
        help="how long the idle executor takes; by default as long as the served model",
    )
    options = parser.parse_args()
    if min(options.vocabularies) < 300:
        raise InputError("a vocabulary has the 256 bytes and some words; give 300 tokens or more")
    if not 10 <= options.steps <= 1000:
        raise InputError(
            "few steps have no median, and an answer ends at 2,048 tokens; give --steps from 10 to 1000"
        )
    if min(options.threads, options.rounds) < 1:
        raise InputError("give --threads and --rounds at least 1")
    if "served" not in options.parts and options.step_ms is None:
        raise InputError("without the part that is served nothing says how long a step takes; give --step-ms")
    configure_logs()
    print(describe_machine(), flush=True)
    figures: dict[str, Any] = {}
    with workspace(options.folder) as folder:
        step_ms = options.step_ms
        if "served" in options.parts:
            config = SHAPES[options.shape]
            need_disk(folder, 2 * numbers_of(config), "the weights")
            write_model(folder / "model", config)
            settings = {name: getattr(options, name) for name in ("threads", "rounds", "steps")}
            figures["served"] = run_worker(
                __file__,
                "served",
                settings | {"folder": str(folder / "model")},
                environment={"OMP_NUM_THREADS": str(options.threads)},
            )
            measured_ms = show_served(figures["served"])
            step_ms = options.step_ms or measured_ms
        if "idle" in options.parts:
            figures["idle"] = idle(folder, options.vocabularies, options.steps, step_ms)
    finish(options, figures | {"step_ms": step_ms})


def idle(folder: Path, vocabularies: list[int], steps: int, step_ms: float) -> list[dict[str, Any]]:
    """Measure, and print the table."""
    rows: list[dict[str, Any]] = []
    for vocabulary in vocabularies:
        tokenizer = tokenizer_of(vocabulary)
        for way, names in (("engine", tuple(CASES)), ("HTTP", HTTP_CASES)):
            for name in names:
                drive = partial(in_threads if way == "engine" else over_http, CASES[name], steps)
                found = measure(folder, tokenizer, vocabulary, step_ms / 1e3, drive)
                rows.append({"vocabulary": vocabulary, "way": way, "case": name, **found})
    print_table(
        ["vocabulary", "idle, by", "case", "ms, median", "ms, 95 %", f"of {step_ms:.0f} ms", "CPU, ms"],
        [
            [
                f"{row['vocabulary']:,}",
                row["way"],
                row["case"],
                f"{statistics.median(row['idle_ms']):.2f}",
                f"{sorted(row['idle_ms'])[len(row['idle_ms']) * 95 // 100]:.2f}",
                f"{100 * statistics.median(row['idle_ms']) / step_ms:.1f} %",
                f"{statistics.mean(row['cpu_ms']):.2f}",
            ]
            for row in rows
        ],
    )
    return rows


if __name__ == "__main__":
    entry(main, {"clients": clients, "served": served})
