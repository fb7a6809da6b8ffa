"""GFLOP/s of a linear layer's three products by ATen and by oneDNN, and which one `matmul="auto"` takes.

    python benchmarks/matmul.py --threads 1 2 --repeats 9 --json matmul.json

Float32, `--tokens` rows. For a layer `in x out`: forward x @ W^T + bias, grad-x g @ W, grad-w g^T @ x. Both
kernels run in turn inside each repeat, so that a busy machine slows both; a number is the median of the
repeats. With more threads than free cores, waiting for threads is all that it measures.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from _common import describe_machine, entry, finish, parser_of, print_table

from openwafer.base import InputError
from openwafer.cluster._matmul import candidates, kernel_for, onednn_is_available
from openwafer.cluster._matmul_cache import Product

LAYERS = [(768, 768), (768, 3072), (3072, 768), (1024, 4096), (256, 1024), (256, 256), (768, 16384)]


def layer(text: str) -> tuple[int, int]:
    """`768x3072` as numbers, for argparse."""
    inner, _, outer = text.partition("x")
    if not (inner.isdecimal() and outer.isdecimal() and int(inner) and int(outer)):
        raise argparse.ArgumentTypeError(f"{text!r} is no layer; write INxOUT, for example 768x3072")
    return int(inner), int(outer)


def products(tokens: int, inner: int, outer: int) -> dict[str, Product]:
    """The products of one layer, in the layouts of a captured training step."""
    return {
        "forward": Product(rows=tokens, inner=inner, columns=outer, b=".t", bias=(outer,)),
        "grad-x": Product(rows=tokens, inner=outer, columns=inner),
        "grad-w": Product(rows=outer, inner=tokens, columns=inner, a=".t"),
    }


def measure(product: Product, repeats: int) -> dict[str, float]:
    """Median GFLOP/s of each kernel."""
    operands = product.operands()
    kernels = candidates(product)
    seconds: dict[str, list[float]] = {name: [] for name in kernels}
    for kernel in kernels.values():
        kernel(*operands)
    for _ in range(repeats):
        for name, kernel in kernels.items():
            start = time.perf_counter()
            kernel(*operands)
            seconds[name].append(time.perf_counter() - start)
    flops = 2 * product.rows * product.inner * product.columns
    return {name: flops / statistics.median(times) / 1e9 for name, times in seconds.items()}


def main() -> None:
    parser = parser_of(__doc__, folder=False)
    parser.add_argument("--layers", type=layer, nargs="+", default=LAYERS, metavar="INxOUT")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    if not onednn_is_available():
        raise InputError(
            f"torch {torch.__version__} has no oneDNN here, so there is nothing to compare; take a torch that has it"
        )

    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for inner, outer in options.layers:
            for name, product in products(options.tokens, inner, outer).items():
                start = time.perf_counter()
                choice = kernel_for(product, threads)
                choosing_s = time.perf_counter() - start
                rows.append({"layer": f"{inner} x {outer}", "product": name, "threads": threads})
                rows[-1].update(measure(product, options.repeats), auto=choice, choosing_s=choosing_s)
            print(f"{threads} thread(s), {inner} x {outer} done", flush=True)

    print(f"\n{describe_machine()}")
    print(f"median of {options.repeats} repeats, float32, {options.tokens} tokens, GFLOP/s\n")
    header = ["layer", "product", "threads", "torch", "onednn", "onednn/torch", "auto", "choosing, ms"]
    print_table(header, [cells(row) for row in rows])
    finish(options, {"rows": rows})


def cells(row: dict[str, Any]) -> list[object]:
    """One row of the table."""
    out: list[object] = [row["layer"], row["product"], row["threads"]]
    out += [f"{row['torch']:.0f}", f"{row['onednn']:.0f}", f"{row['onednn'] / row['torch']:.2f}"]
    return [*out, row["auto"], f"{row['choosing_s'] * 1e3:.0f}"]


if __name__ == "__main__":
    entry(main, {})
