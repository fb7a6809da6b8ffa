"""Draws the GEMV: which PE holds what, and what every PE does when. Run it with Python, in this folder.

python picture.py --name out --picture gemv.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from openwafer.artifact._image import Image
from openwafer.fabric import TraceKind
from openwafer.host import SdkRuntime

M, N = 16, 12
COLORS = {
    "main": "#888888",
    "multiply": "#2a6fb0",
    "done": "#c44536",
    "x leaves": "#4d9078",
    "x arrives": "#8fc1a9",
    "sums": "#e8a84c",
}
MICROTHREADS = {2: "x arrives", 3: "sums", 4: "x leaves"}  # they have the numbers of their queues
Bar = tuple[int, int, str, int, int]  # x, y, what, first cycle, cycles


def run(folder: Path) -> tuple[Image, Any]:
    """One launch, with the trace of what the PEs did in it."""
    runner = SdkRuntime(folder)
    runner.load()
    runner.run()
    machine = runner.device.machine
    machine.set_trace(True)
    runner.launch("main", nonblock=False)
    trace = machine.trace()
    runner.stop()
    return machine.image, trace


def bars(image: Image, trace: Any) -> list[Bar]:
    """Tasks of the main thread, and operations on microthreads, with the cycles from their start to their end."""
    programs = {(tile.x, tile.y): tile.program for tile in image.tiles}
    begun: dict[tuple[int, int, str], int] = {}
    found: list[Bar] = []
    for record in trace:
        x, y, kind, number, cycle = (int(record[field]) for field in ("x", "y", "kind", "a", "cycle"))
        program = programs[x, y]
        assert program is not None
        names = {task.id: task.name for task in image.programs[program].tasks}
        if kind in (TraceKind.TASK_START, TraceKind.TASK_END):
            what = names.get(number, "main")  # a command of the host: the launched function
            starts = kind == TraceKind.TASK_START
        elif kind in (TraceKind.VECTOR_START, TraceKind.VECTOR_END) and number < 8:
            what = MICROTHREADS[number]
            starts = kind == TraceKind.VECTOR_START
        else:
            continue
        if starts:
            begun[x, y, what] = cycle
        elif (x, y, what) in begun:
            first = begun.pop((x, y, what))
            found.append((x, y, what, first, cycle - first))
    return found


def draw(image: Image, found: list[Bar], picture: Path) -> None:
    """The two halves of the picture: places to the left, times to the right."""
    width, height = image.rectangle
    figure, (places, times) = plt.subplots(
        1, 2, figsize=(12, 0.32 * width * height + 1.6), gridspec_kw={"width_ratios": [1, 1.5]}
    )
    for x in range(width):
        for y in range(height):
            places.add_patch(plt.Rectangle((x + 0.1, y + 0.1), 0.8, 0.8, fill=False))
            block = f"A[{y * M}:{(y + 1) * M},\n{x * N}:{(x + 1) * N}]"
            text = block + (f"\ny[{y * M}:{(y + 1) * M}]" if x == width - 1 else "")
            places.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=7)
            if y + 1 < height:
                arrow(places, (x + 0.5, y + 0.9), (x + 0.5, y + 1.1), COLORS["x arrives"])
            if x + 1 < width:
                arrow(places, (x + 0.9, y + 0.5), (x + 1.1, y + 0.5), COLORS["sums"])
        places.text(x + 0.5, -0.12, f"x[{x * N}:{(x + 1) * N}]", ha="center", fontsize=7)
        arrow(places, (x + 0.5, -0.08), (x + 0.5, 0.1), COLORS["x arrives"])
    places.set(xlim=(0, width), ylim=(height, -0.35), aspect="equal", title="which PE holds what")
    places.axis("off")

    origin = min(first for *_, first, _ in found)
    for x, y, what, first, cycles in found:
        thin = what in MICROTHREADS.values()
        row = y * width + x
        times.barh(
            row + (0.37 if what == "x leaves" else 0.25 if thin else -0.1),
            cycles,
            left=first - origin,
            height=0.12 if thin else 0.5,
            color=COLORS[what],
        )
    labels = [f"({x}, {y})" for y in range(height) for x in range(width)]
    times.set_yticks(np.arange(len(labels)), labels, fontsize=7)
    times.invert_yaxis()
    times.set(xlabel="cycles since the launch", title=f"what every PE does when, {image.architecture}")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in COLORS.values()]
    times.legend(handles, COLORS, fontsize=7, ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    """From a PE to the next one."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.5})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", type=Path, default=Path("out"))
    parser.add_argument("--picture", type=Path, default=Path("gemv.png"))
    arguments = parser.parse_args()
    image, trace = run(arguments.name)
    draw(image, bars(image, trace), arguments.picture)
    print(f"{arguments.picture} is written")
