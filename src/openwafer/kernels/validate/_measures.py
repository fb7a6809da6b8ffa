"""What is measured: for each kind of row a function from a bench and a timing table to one number.

Times inside one PE come from its own counter, less what two readings with nothing between them give; times between PEs
from the machine's trace, in which all PEs have one clock.
"""

from __future__ import annotations

from collections.abc import Callable

from openwafer.artifact._image import Architecture, Image
from openwafer.fabric import Timing, TraceKind
from openwafer.kernels.validate._bench import Bench
from openwafer.kernels.validate._published import Row

_SHORT, _LONG = 512, 2048  # elements, between which slopes are taken
_MAIN_THREAD = 8
_SINGLES = (3, 8)  # parts of the program `vector` whose elements are f32


def measure_row(row: Row, bench: Bench, timing: Timing) -> float:
    """The row's number on a timing table of its architecture."""
    return MEASURES[row.measure](bench, row.architecture, timing, **row.params)


# --- between PEs ---


def _transfer(
    bench: Bench, chip: Architecture, timing: Timing, distance: int, count: int, streams: int = 1
) -> float:
    """From the sender's dispatch to the first instruction of the last completion task of `streams` equal streams."""
    image = bench.image("fabric", chip, distance=distance, count=count, streams=streams)
    trace = bench.run(image, timing)
    start = trace.cycles(TraceKind.VECTOR_START, 0, number=_MAIN_THREAD)[0]
    return trace.cycles(TraceKind.TASK_START, distance)[-1] + timing["tasks.dispatch_cycles"] - start


def hop_cycles(bench: Bench, chip: Architecture, timing: Timing) -> float:
    """How much later a word comes for each further link, over 2 to 10 of them."""
    return (_transfer(bench, chip, timing, 10, 1) - _transfer(bench, chip, timing, 2, 1)) / 8


def link_cycles(bench: Bench, chip: Architecture, timing: Timing, streams: int) -> float:
    """How much later the end comes for each further word of each stream."""
    return (
        _transfer(bench, chip, timing, 3, 1500, streams) - _transfer(bench, chip, timing, 3, 500, streams)
    ) / 1000


def send_cycles(bench: Bench, chip: Architecture, timing: Timing) -> float:
    """From the dispatch of a send to its first word on the link."""
    trace = bench.run(bench.image("fabric", chip, distance=1, count=8, streams=1), timing, wavelets=True)
    start = trace.cycles(TraceKind.VECTOR_START, 0, number=_MAIN_THREAD)[0]
    return trace.cycles(TraceKind.WAVELET_OUT, 0)[0] + timing["network.ramp_in_cycles"] - start


def completion_cycles(bench: Bench, chip: Architecture, timing: Timing) -> float:
    """From the last word's landing at the receiver's router to the completion task's first instruction."""
    trace = bench.run(bench.image("fabric", chip, distance=1, count=8, streams=1), timing, wavelets=True)
    landing = trace.cycles(TraceKind.WAVELET_IN, 1)[-1] - timing["network.ramp_out_cycles"]
    return trace.cycles(TraceKind.TASK_START, 1)[-1] + timing["tasks.dispatch_cycles"] - landing


def transfer_cycles(bench: Bench, chip: Architecture, timing: Timing) -> float:
    """8 words over one link, from dispatch to completion task."""
    return _transfer(bench, chip, timing, 1, 8)


def relay_cycles(bench: Bench, chip: Architecture, timing: Timing, count: int) -> float:
    """Store and forward: what each further hop adds, over 1 to 8 of them."""

    def whole(hops: int) -> float:
        trace = bench.run(bench.image("relay", chip, hops=hops, count=count), timing)
        start = trace.cycles(TraceKind.VECTOR_START, 0, number=_MAIN_THREAD)[0]
        return trace.cycles(TraceKind.TASK_START, hops)[-1] - start

    return (whole(8) - whole(1)) / 7


# --- vectors ---


def _part(bench: Bench, chip: Architecture, timing: Timing, what: int, count: int, stride: int = 1) -> int:
    words = count * stride // (1 if what in _SINGLES else 2)
    image = bench.image("vector", chip, count=count, stride=stride, words=words)
    return bench.ticks(image, timing, what) - bench.ticks(image, timing, 0)


def vector_cycles(bench: Bench, chip: Architecture, timing: Timing, what: int, count: int) -> float:
    """One operation, up to the next instruction."""
    return _part(bench, chip, timing, what, count)


def vector_slope(bench: Bench, chip: Architecture, timing: Timing, what: int, stride: int = 1) -> float:
    """Cycles for each further element."""
    short, long = _SHORT // stride, _LONG // stride
    cycles = [_part(bench, chip, timing, what, count, stride) for count in (short, long)]
    return (cycles[1] - cycles[0]) / (long - short)


def vector_rate(bench: Bench, chip: Architecture, timing: Timing, what: int, stride: int = 1) -> float:
    """Further elements a cycle."""
    return 1 / vector_slope(bench, chip, timing, what, stride)


def fmacs_cycles(bench: Bench, chip: Architecture, timing: Timing, shift: int) -> float:
    """@fmacs on 5,124 elements of memory."""
    image = bench.image("fmacs", chip, count=5124, shift=shift)
    return bench.ticks(image, timing, 1) - bench.ticks(image, timing, 0)


# --- loops ---


def loop_cycles(bench: Bench, chip: Architecture, timing: Timing, what: int, count: int) -> float:
    """A whole loop."""
    image = bench.image("loops", chip, count=count, singles=count if what == 2 else 1)
    return bench.ticks(image, timing, what) - bench.ticks(image, timing, 0)


def loop_slope(bench: Bench, chip: Architecture, timing: Timing, what: int) -> float:
    """Cycles for each further turn."""
    cycles = [loop_cycles(bench, chip, timing, what, count) for count in (_SHORT, _LONG)]
    return (cycles[1] - cycles[0]) / (_LONG - _SHORT)


def gemm_cycles(bench: Bench, chip: Architecture, timing: Timing) -> float:
    """Four steps of C += A B on tiles of 14 x 14."""
    trace = bench.run(bench.image("gemm", chip, size=14), timing, 4)
    return trace.cycles(TraceKind.TASK_END, 0)[-1] - trace.cycles(TraceKind.TASK_START, 0)[1]


# --- programs ---


def cell_cycles(bench: Bench, chip: Architecture, timing: Timing, size: int) -> float:
    """A star of radius 1 with one cell a PE."""

    def end(iterations: int) -> int:
        image = bench.image("stencil_cell", chip, width=size, height=size, iterations=iterations)
        return bench.run(image, timing).cycles(TraceKind.TASK_END, 1, 1)[-1]

    return (end(4) - end(2)) / 2


def tile_cycles(
    bench: Bench, chip: Architecture, timing: Timing, columns: int, rows: int, radius: int
) -> float:
    """A star of any radius on a tile a PE, on 3 x 3 PEs."""
    image = bench.image("stencil_tile", chip, width=3, height=3, columns=columns, rows=rows, radius=radius)
    return _iteration(bench, image, timing)


def _iteration(bench: Bench, image: Image, timing: Timing) -> float:
    """As series J did: when the PE in column and row 1 last did something, for 4 iterations less 2, by 2."""
    ends = [bench.run(image, timing, count).cycles(TraceKind.TASK_END, 1, 1)[-1] for count in (2, 4)]
    return (ends[1] - ends[0]) / 2


def counter_period(bench: Bench, chip: Architecture, timing: Timing) -> float:
    """From one line of a receiver that prints each word to its next."""
    trace = bench.run(bench.image("counter", chip, count=5), timing)
    cycles = [cycle for cycle, x, _, _ in trace.machine.prints() if x == 1]
    return (cycles[-1] - cycles[0]) / (len(cycles) - 1)


def counter_sender(bench: Bench, chip: Architecture, timing: Timing) -> float:
    """Between the sender's two lines."""
    trace = bench.run(bench.image("counter", chip, count=5), timing)
    cycles = [cycle for cycle, x, _, _ in trace.machine.prints() if x == 0]
    return cycles[1] - cycles[0]


MEASURES: dict[str, Callable[..., float]] = {
    one.__name__: one
    for one in (
        *(hop_cycles, link_cycles, send_cycles, completion_cycles, transfer_cycles, relay_cycles),
        *(vector_cycles, vector_slope, vector_rate, fmacs_cycles, loop_cycles, loop_slope, gemm_cycles),
        *(cell_cycles, tile_cycles, counter_period, counter_sender),
    )
}
"""By name; what a row may ask for."""
