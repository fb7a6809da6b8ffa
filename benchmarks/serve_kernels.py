"""How near the native kernels of inference come to the memory's bandwidth, beside torch and a probe that only reads.

    python benchmarks/serve_kernels.py --json serve_kernels.json
    python benchmarks/serve_kernels.py --parts step --threads 2

products: one token by matrices of several shapes and dtypes, enough of them to leave no cache warm. tokens: 1 to 16 tokens by
two matrices of the model, by native kernels and by torch. step: all layers and the head of a decode step in bfloat16 at several
contexts; its bytes are those of the weights and of the keys and values. The model's shape is that of serve_peers.py: 22 layers,
2048 hidden, 32 heads, 4 of keys and values, 5632 intermediate, 32,000 tokens.

What is compared runs in turn, `--rounds` times. GB/s are bytes of weights by the median of the times. torch's threads look
for work for a while after each call, so a pause follows it.

choice: milliseconds in which rows of random logits (normal, times 3) become tokens, one call after another, and after a rest in
which other memory was read, as a decode step does. What is drawn by is written beside the logits, which the next round reads
again. NumPy's way is that of machines without the native kernels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _common import describe_machine, entry, finish, parser_of, print_table
from _serve_model import SHAPES
from torch.nn import functional

from openwafer.base import MIB, InputError
from openwafer.serve import kernels
from openwafer.serve.kernels import Asked, DecoderLayer, Level, Linear, Paged
from openwafer.serve.kernels._load import native
from openwafer.serve.model import new_tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "int8": torch.bfloat16}
PROBE_BYTES = 256 * MIB
TORCH_REST_S = 0.01
STEP_S = 0.03
"""Of rest between two choices, beside what reading the probe's memory takes."""


@dataclass(frozen=True)
class Model:
    """Sizes of a model, and of what is to be larger than the caches."""

    hidden: int
    inner: int
    layers: int
    heads: int
    heads_kv: int
    vocabulary: int
    set_bytes: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def model_of(shape: str) -> Model:
    """One of `_serve_model.SHAPES`."""
    sizes = SHAPES[shape]
    return Model(
        hidden=sizes["hidden_size"],
        inner=sizes["intermediate_size"],
        layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        heads_kv=sizes["num_key_value_heads"],
        vocabulary=sizes["vocab_size"],
        set_bytes=160 * MIB if shape == "1b" else MIB,
    )


def matrices(model: Model, rows: int, columns: int, dtype: str) -> tuple[list[Linear], int]:
    """Enough matrices to fill the model's `set_bytes`, and their bytes."""
    found: list[Linear] = []
    total = 0
    while total < model.set_bytes or len(found) < 2:
        found.append(
            Linear(filled(rows, columns, DTYPES[dtype]), None, "int8" if dtype == "int8" else "none")
        )
        total += found[-1].nbytes
    return found, total


def filled(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """A matrix of equal rows."""
    weight = new_tensor((rows, columns), dtype)
    weight.copy_((torch.randn(1, columns) * 0.02).to(dtype).expand(rows, columns))
    return weight


def in_turn(rounds: int, **bodies: Callable[[], object]) -> dict[str, float]:
    """The median seconds of each, run in turn after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in bodies}
    for _ in range(rounds + 1):
        for name, body in bodies.items():
            start = time.perf_counter()
            body()
            times[name].append(time.perf_counter() - start)
            if name == "torch":
                time.sleep(TORCH_REST_S)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def by_torch(linears: list[Linear], x_TK: torch.Tensor) -> None:
    """What torch makes of the same matrices; int8 by its own kernel for such matrices."""
    for linear in linears:
        if linear._scale_N is None:
            functional.linear(x_TK, linear._weight)
        else:
            torch._weight_int8pack_mm(x_TK, linear._weight, linear._scale_N.to(x_TK.dtype))


def probe_of() -> Callable[[], object]:
    """Reads PROBE_BYTES by the same threads."""
    memory = new_tensor((PROBE_BYTES,), torch.uint8)
    memory.fill_(1)
    return lambda: native.read_probe(memory.data_ptr(), PROBE_BYTES)


def products(model: Model, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One token by each shape in each dtype."""
    probe, found, columns = probe_of(), [], model.hidden
    for dtype in DTYPES:
        for rows in (model.hidden, model.inner, model.vocabulary):
            linears, nbytes = matrices(model, rows, columns, dtype)
            x_TK = torch.randn(1, columns).to(DTYPES[dtype])
            seconds = in_turn(
                rounds,
                native=lambda linears=linears, x=x_TK: [linear(x) for linear in linears],
                probe=probe,
                torch=lambda linears=linears, x=x_TK: by_torch(linears, x),
            )
            rates = {name: nbytes / seconds[name] / 1e9 for name in ("native", "torch")}
            rates["probe"] = PROBE_BYTES / seconds["probe"] / 1e9
            found.append({"threads": threads, "dtype": dtype, "shape": f"{rows}x{columns}", **rates})
    return found


def tokens(model: Model, threads: int, rounds: int) -> list[dict[str, Any]]:
    """1 to 16 tokens by two matrices."""
    found = []
    for dtype in DTYPES:
        for rows, columns in ((2 * model.inner, model.hidden), (model.hidden, model.inner)):
            linears, nbytes = matrices(model, rows, columns, dtype)
            for count in (1, 2, 4, 8, 12, 16):
                x_TK = torch.randn(count, columns).to(DTYPES[dtype])
                y_TN = torch.empty((count, rows), dtype=x_TK.dtype)

                def multiply(linears: list[Linear] = linears, x=x_TK, y=y_TN) -> None:  # type: ignore[no-untyped-def]
                    for linear in linears:
                        linear.native.multiply(x.data_ptr(), len(x), y.data_ptr(), False)

                seconds = in_turn(
                    rounds,
                    native=multiply,
                    torch=lambda linears=linears, x=x_TK: by_torch(linears, x),
                )
                row = {"threads": threads, "dtype": dtype, "shape": f"{rows}x{columns}", "tokens": count}
                found.append(row | {name: nbytes / value / 1e9 for name, value in seconds.items()})
    return found


def step(model: Model, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A decode step."""
    probe, found = probe_of(), []
    dtype, blocks = torch.bfloat16, 16
    norm = torch.ones(model.hidden, dtype=dtype)
    layers, nbytes = [], 0
    for _ in range(model.layers):
        shapes = (
            ((model.heads + 2 * model.heads_kv) * model.head_dim, model.hidden),
            (model.hidden, model.heads * model.head_dim),
            (2 * model.inner, model.hidden),
            (model.hidden, model.inner),
        )
        qkv, output, gate_up, down = (Linear(filled(*shape, dtype)) for shape in shapes)
        nbytes += sum(linear.nbytes for linear in (qkv, output, gate_up, down))
        caches = [
            new_tensor((blocks, model.heads_kv, 128, model.head_dim), dtype).normal_() for _ in range(2)
        ]
        layer = DecoderLayer(
            attention_norm=norm,
            qkv=qkv,
            output=output,
            mlp_norm=norm,
            gate_up=gate_up,
            down=down,
            query_norm=None,
            key_norm=None,
            epsilon=1e-5,
            heads=model.heads,
            heads_kv=model.heads_kv,
            head_dim=model.head_dim,
            window=None,
        )
        layers.append((layer, *caches))
    head = Linear(filled(model.vocabulary, model.hidden, dtype))
    nbytes += head.nbytes
    x_TH = torch.randn(1, model.hidden).to(dtype)
    cos, sin = torch.ones(1, model.head_dim // 2), torch.zeros(1, model.head_dim // 2)
    for context in (64, 1024, 2048):
        paged = Paged([0, 1], [context], torch.arange(blocks, dtype=torch.int32)[None])

        def decode(paged: Paged = paged) -> torch.Tensor:
            y_TH = x_TH
            for layer, keys, values in layers:
                y_TH = layer(y_TH, paged, cos, sin, keys, values)
            return head(y_TH)

        seconds = in_turn(rounds, native=decode, probe=probe)
        read = nbytes + model.layers * 2 * context * model.heads_kv * model.head_dim * 2
        row = {"threads": threads, "context": context, "ms": seconds["native"] * 1e3}
        rates = {"native": read / seconds["native"] / 1e9, "probe": PROBE_BYTES / seconds["probe"] / 1e9}
        found.append(row | rates)
    return found


def choice(model: Model, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of the model's vocabulary, and of one four times as large, to tokens."""
    level, slow = kernels.levels()[-1], kernels.levels()[0]
    probe, found = probe_of(), []
    for rows, vocabulary in ((8, model.vocabulary), (8, 4 * model.vocabulary), (64, 4 * model.vocabulary)):
        normal = np.random.default_rng(0).standard_normal((rows, vocabulary), dtype=np.float32)
        logits_RV, drawn_from_RV = normal * 3, np.empty_like(normal)
        for how in ("greedy", "top_p", "logprobs 5"):
            asked = [
                question(how, kernels.address(logits_V), kernels.address(weights_V), place / rows)
                for place, (logits_V, weights_V) in enumerate(zip(logits_RV, drawn_from_RV, strict=True))
            ]

            def choose(level: Level = level, vocabulary=vocabulary, asked=asked) -> None:  # type: ignore[no-untyped-def]
                kernels.choose(vocabulary, asked, level)

            def rest() -> None:
                probe()
                time.sleep(STEP_S)

            seconds = {
                "again": in_turn(rounds, choose=choose),
                "after a rest": in_turn(rounds, rest=rest, choose=choose),
                "NumPy": in_turn(rounds, choose=lambda choose=choose: choose(slow)),
            }
            row = {"threads": threads, "rows": rows, "vocabulary": vocabulary, "choice": how}
            found.append(row | {name: 1e3 * times["choose"] for name, times in seconds.items()})
    return found


def question(how: str, logits: int, weights: int, draw: float) -> Asked:
    """What is asked of a row at an address."""
    if how == "top_p":
        return logits, None, 1.25, 0.9, draw, weights, logits, -1
    return logits, None, 0.0, 1.0, 0.0, 0, logits, -1 if how == "greedy" else 5


RUNS = {"products": products, "tokens": tokens, "step": step, "choice": choice}


def main() -> None:
    parser = parser_of(__doc__, folder=False)
    parser.add_argument("--parts", nargs="+", choices=RUNS, default=list(RUNS), metavar="PART")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="COUNT")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shape", choices=SHAPES, default="1b", help="of the model")
    options = parser.parse_args()
    if min(*options.threads, options.rounds) < 1:
        raise InputError("give --threads and --rounds at least 1")
    model = model_of(options.shape)
    print(describe_machine(), flush=True)
    print(f"native level: {kernels.levels()[-1]}", flush=True)
    figures: dict[str, Any] = {}
    for part in options.parts:
        rows: list[dict[str, Any]] = []
        for threads in options.threads:
            kernels.set_threads(threads)
            torch.set_num_threads(threads)
            rows += RUNS[part](model, threads, options.rounds)
        for row in rows:
            if "probe" in row:
                row["of probe"] = row["native"] / row["probe"]
        figures[part] = rows
        print(f"\n{part}, {'ms' if part == 'choice' else 'GB/s'}:", flush=True)
        digits = 2 if part == "choice" else 1
        cells = [
            [
                f"{x:.2f}" if k == "of probe" else f"{x:.{digits}f}" if isinstance(x, float) else x
                for k, x in row.items()
            ]
            for row in rows
        ]
        print_table(list(rows[0]), cells)
    finish(options, figures)


if __name__ == "__main__":
    entry(main, {})
