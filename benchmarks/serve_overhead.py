"""What scheduling, choosing tokens and HTTP cost beside a decode step of eight answers.

    python benchmarks/serve_overhead.py --json serve_overhead.json

The executor computes nothing: it returns random logits (normal, times 3, so the nucleus is thousands of tokens wide) after
--step-ms. What counts is the time between its giving logits and its getting the next batch, in which an accelerator would
be idle: median and 95th percentile, over the steps in which all eight answers go on. `CPU` is what all threads of the
process compute in a step, also while the executor is at work (a grammar's masks, and HTTP).

`engine` rows have readers in threads; `HTTP` rows the whole server, on loopback, with eight streaming clients in another
process. The vocabulary is made up: random words, as many as Llama 2 (32,000) and Llama 3 (128,256) have tokens.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from _common import describe_machine, entry, finish, parser_of, print_table, run_worker, workspace
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from openwafer.base import InputError, configure_logs
from openwafer.serve.api import Settings, make_app
from openwafer.serve.engine import Engine, Grammar, Request, Sampling
from openwafer.serve.executors import Batch
from openwafer.serve.model import ModelConfig
from openwafer.serve.text import ChatTemplate, Tokenizer

ANSWERS = 8
SPECIAL = ("<|begin|>", "<|end|>")
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

    blocks = 400
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
            "max_position_embeddings": 4096,
            "eos_token_id": vocabulary - 1,
        }
        (folder / "config.json").write_text(json.dumps(values))
        self.config = ModelConfig.from_folder(folder)
        self._step_s = step_s
        draw = torch.Generator().manual_seed(0)
        self._logits = [torch.randn(ANSWERS, vocabulary, generator=draw) * 3 for _ in range(4)]
        for logits_RV in self._logits:
            logits_RV[:, -1] = -30  # an answer does not end by itself
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


def in_threads(case: dict[str, Any], steps: int, engine: Engine, tokenizer: Tokenizer) -> None:
    """Eight requests, read by as many threads."""
    values = dict(case)
    grammar = Grammar("json_schema", json.dumps(SCHEMA)) if values.pop("schema", False) else None
    logprobs = values.pop("logprobs", None)

    def read(number: int) -> None:
        request = Request(
            str(number),
            (number, 1, 2, 3),
            Sampling(**values, seed=number),
            max_tokens=steps,
            grammar=grammar,
            logprobs=logprobs,
        )
        for _ in engine.submit(request):
            pass

    threads = [threading.Thread(target=read, args=(number,)) for number in range(ANSWERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def clients(settings: dict[str, Any]) -> dict[str, Any]:
    """Worker: eight clients, each of which reads one stream to its end."""
    values = dict(settings["case"])
    body = {
        "model": "idle",
        "messages": [{"role": "user", "content": "why"}],
        "max_tokens": settings["steps"],
        "stream": True,
    }
    if values.pop("schema", False):
        form = {"name": "answer", "strict": True, "schema": SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if top := values.pop("logprobs", None):
        body |= {"logprobs": True, "top_logprobs": top}

    async def read(client: httpx.AsyncClient, number: int) -> int:
        chunks = 0
        url = settings["url"] + "/v1/chat/completions"
        async with client.stream("POST", url, json=body | values | {"seed": number}) as response:
            if response.status_code != 200:
                raise InputError(
                    f"the server answered {response.status_code}: {(await response.aread()).decode()}"
                )
            async for line in response.aiter_lines():
                chunks += line.startswith("data: ")
        return chunks

    async def read_all() -> list[int]:
        async with httpx.AsyncClient(timeout=120) as client:
            return await asyncio.gather(*(read(client, number) for number in range(ANSWERS)))

    return {"chunks": asyncio.run(read_all())}


def over_http(case: dict[str, Any], steps: int, engine: Engine, tokenizer: Tokenizer) -> None:
    """The same through the server."""
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
        port = server.servers[0].sockets[0].getsockname()[1]
        found = run_worker(
            __file__, "clients", {"url": f"http://127.0.0.1:{port}", "case": case, "steps": steps}
        )
        assert min(found["chunks"]) > 1
    finally:
        server.should_exit = True
        thread.join()


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
        raise InputError(
            "eight answers were never under way together for three steps; give more --steps, or a longer --step-ms"
        )
    return {"idle_ms": [1e3 * idle for idle, _ in steps], "cpu_ms": [1e3 * cpu for _, cpu in steps]}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[32_000, 128_256], metavar="TOKENS")
    parser.add_argument("--steps", type=int, default=80, help="tokens of each answer")
    parser.add_argument("--step-ms", type=float, default=50.0, help="how long the executor takes")
    options = parser.parse_args()
    if min(options.vocabularies) < 300:
        raise InputError("a vocabulary has the 256 bytes and some words; give 300 tokens or more")
    configure_logs()
    print(describe_machine(), flush=True)
    rows: list[dict[str, Any]] = []
    with workspace(options.folder) as folder:
        for vocabulary in options.vocabularies:
            tokenizer = tokenizer_of(vocabulary)
            for way, names in (("engine", tuple(CASES)), ("HTTP", HTTP_CASES)):
                for name in names:
                    drive = partial(in_threads if way == "engine" else over_http, CASES[name], options.steps)
                    found = measure(folder, tokenizer, vocabulary, options.step_ms / 1e3, drive)
                    rows.append({"vocabulary": vocabulary, "way": way, "case": name, **found})
    print_table(
        ["vocabulary", "way", "case", "ms, median", "ms, 95 %", "of a step", "CPU, ms"],
        [
            [
                f"{row['vocabulary']:,}",
                row["way"],
                row["case"],
                f"{statistics.median(row['idle_ms']):.2f}",
                f"{sorted(row['idle_ms'])[len(row['idle_ms']) * 95 // 100]:.2f}",
                f"{100 * statistics.median(row['idle_ms']) / options.step_ms:.1f} %",
                f"{statistics.mean(row['cpu_ms']):.2f}",
            ]
            for row in rows
        ],
    )
    finish(options, {"rows": rows})


if __name__ == "__main__":
    entry(main, {"clients": clients})
