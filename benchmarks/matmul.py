"""GFLOP/s of a linear layer's three products by ATen and by oneDNN, and which one `matmul="auto"` takes.

    python benchmarks/matmul.py [--threads 1 2] [--repeats 9]

Float32, N = 1024 tokens. For a layer `in x out`: forward x @ W^T + bias, grad-x g @ W, grad-w g^T @ x. Both
kernels run in turn inside each repeat, so that a busy machine slows both; a number is the median of the
repeats. With more threads than free cores, waiting for threads is all that it measures.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch

from openwafer.cluster._matmul import candidates, kernel_for, onednn_is_available
from openwafer.cluster._matmul_cache import Product

TOKENS = 1024
LAYERS = [(768, 768), (768, 3072), (3072, 768), (1024, 4096), (256, 1024), (256, 256), (768, 16384)]


def products(inner: int, outer: int) -> dict[str, Product]:
    """The products of one layer, in the layouts of a captured training step."""
    return {
        "forward": Product(rows=TOKENS, inner=inner, columns=outer, b=".t", bias=(outer,)),
        "grad-x": Product(rows=TOKENS, inner=outer, columns=inner),
        "grad-w": Product(rows=outer, inner=TOKENS, columns=inner, a=".t"),
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


def cpu_name() -> str:
    """What the machine calls its CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    if not onednn_is_available():
        parser.exit(1, f"torch {torch.__version__} has no oneDNN here: there is nothing to compare\n")

    print(f"torch {torch.__version__}, {cpu_name()}, {torch.backends.cpu.get_cpu_capability()}")
    print(f"median of {options.repeats} repeats, float32, {TOKENS} tokens, GFLOP/s\n")
    print("| layer | product | threads | torch | onednn | onednn/torch | auto | choosing, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for inner, outer in LAYERS:
            for name, product in products(inner, outer).items():
                start = time.perf_counter()
                choice = kernel_for(product, threads)
                choosing_ms = (time.perf_counter() - start) * 1e3
                speed = measure(product, options.repeats)
                cells = [
                    f"{inner} x {outer}",
                    name,
                    threads,
                    f"{speed['torch']:.0f}",
                    f"{speed['onednn']:.0f}",
                ]
                cells += [f"{speed['onednn'] / speed['torch']:.2f}", choice, f"{choosing_ms:.0f}"]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
