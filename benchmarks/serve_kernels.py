"""How near the native kernels of inference come to the memory's bandwidth, beside torch and a probe that only reads.

    python benchmarks/serve_kernels.py --json serve_kernels.json
    python benchmarks/serve_kernels.py --parts step --threads 2

products: one token by matrices of several shapes and dtypes, enough of them to leave no cache warm. tokens: 1 to 16 tokens by
two matrices of a 1.1B model, by native kernels and by torch. step: all layers and
the head of a decode step of a 1.1B model (22 layers, 2048 hidden, 32 heads, 4 of keys and values, 5632 intermediate, 32,000
tokens, bfloat16) at several contexts; its bytes are those of the weights and of the keys and values.

What is compared runs in turn, `--rounds` times. GB/s are bytes of weights by the median of the times. torch's threads look
for work for a while after each call, so a pause follows it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from _common import describe_machine, entry, finish, parser_of, print_table
from torch.nn import functional

from openwafer.base import MIB
from openwafer.serve import kernels
from openwafer.serve.kernels import DecoderLayer, Linear, Paged
from openwafer.serve.kernels._load import native
from openwafer.serve.model import new_tensor

PARTS = ("products", "tokens", "step")
SHAPES = ((2048, 2048), (5632, 2048), (32000, 2048))
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "int8": torch.bfloat16}
SET_BYTES = 160 * MIB
PROBE_BYTES = 256 * MIB
HIDDEN, INNER, LAYERS, HEADS, HEADS_KV, HEAD_DIM, VOCABULARY = 2048, 5632, 22, 32, 4, 64, 32000
TORCH_REST_S = 0.01


def matrices(rows: int, columns: int, dtype: str) -> tuple[list[Linear], int]:
    """Enough matrices to fill SET_BYTES, and their bytes."""
    found: list[Linear] = []
    total = 0
    while total < SET_BYTES or len(found) < 2:
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


def products(threads: int, rounds: int) -> list[dict[str, Any]]:
    """One token by each shape in each dtype."""
    probe, found = probe_of(), []
    for dtype in DTYPES:
        for rows, columns in SHAPES:
            linears, nbytes = matrices(rows, columns, dtype)
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


def tokens(threads: int, rounds: int) -> list[dict[str, Any]]:
    """1 to 16 tokens by two matrices."""
    found = []
    for dtype in DTYPES:
        for rows, columns in ((2 * INNER, HIDDEN), (HIDDEN, INNER)):
            linears, nbytes = matrices(rows, columns, dtype)
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


def step(threads: int, rounds: int) -> list[dict[str, Any]]:
    """A decode step of a 1.1B model."""
    probe, found = probe_of(), []
    dtype, blocks = torch.bfloat16, 16
    norm = torch.ones(HIDDEN, dtype=dtype)
    layers, nbytes = [], 0
    for _ in range(LAYERS):
        shapes = (
            ((HEADS + 2 * HEADS_KV) * HEAD_DIM, HIDDEN),
            (HIDDEN, HEADS * HEAD_DIM),
            (2 * INNER, HIDDEN),
            (HIDDEN, INNER),
        )
        qkv, output, gate_up, down = (Linear(filled(*shape, dtype)) for shape in shapes)
        nbytes += sum(linear.nbytes for linear in (qkv, output, gate_up, down))
        caches = [new_tensor((blocks, HEADS_KV, 128, HEAD_DIM), dtype).normal_() for _ in range(2)]
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
            heads=HEADS,
            heads_kv=HEADS_KV,
            head_dim=HEAD_DIM,
            window=None,
        )
        layers.append((layer, *caches))
    head = Linear(filled(VOCABULARY, HIDDEN, dtype))
    nbytes += head.nbytes
    x_TH = torch.randn(1, HIDDEN).to(dtype)
    cos, sin = torch.ones(1, HEAD_DIM // 2), torch.zeros(1, HEAD_DIM // 2)
    for context in (64, 1024, 2048):
        paged = Paged([0, 1], [context], torch.arange(blocks, dtype=torch.int32)[None])

        def decode(paged: Paged = paged) -> torch.Tensor:
            y_TH = x_TH
            for layer, keys, values in layers:
                y_TH = layer(y_TH, paged, cos, sin, keys, values)
            return head(y_TH)

        seconds = in_turn(rounds, native=decode, probe=probe)
        read = nbytes + LAYERS * 2 * context * HEADS_KV * HEAD_DIM * 2
        row = {"threads": threads, "context": context, "ms": seconds["native"] * 1e3}
        rates = {"native": read / seconds["native"] / 1e9, "probe": PROBE_BYTES / seconds["probe"] / 1e9}
        found.append(row | rates)
    return found


def main() -> None:
    parser = parser_of(__doc__, folder=False)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="COUNT")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    print(f"native level: {kernels.levels()[-1]}", flush=True)
    figures: dict[str, Any] = {}
    for part in options.parts:
        rows: list[dict[str, Any]] = []
        for threads in options.threads:
            kernels.set_threads(threads)
            torch.set_num_threads(threads)
            rows += {"products": products, "tokens": tokens, "step": step}[part](threads, options.rounds)
        for row in rows:
            if "probe" in row:
                row["of probe"] = row["native"] / row["probe"]
        figures[part] = rows
        print(f"\n{part}, GB/s:", flush=True)
        cells = [
            [
                f"{x:.2f}" if k == "of probe" else f"{x:.1f}" if isinstance(x, float) else x
                for k, x in row.items()
            ]
            for row in rows
        ]
        print_table(list(rows[0]), cells)
    finish(options, figures)


if __name__ == "__main__":
    entry(main, {})
