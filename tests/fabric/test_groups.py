"""What groups of elements cost, against an independent model of the eight banks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fabric_programs import (
    Code,
    Operand,
    Pe,
    array,
    descriptor,
    dsd,
    machine,
    main_task,
    mem,
    pointer,
    program,
    scalar,
    single,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.artifact import _image as image
from openwafer.artifact import _pe_abi as abi
from openwafer.fabric import load_timing

ELEMENT_WORDS = {"add16": 1, "fadds": 2, "fmacs": 2, "mov16": 1, "fmovs": 2}


def grid(base: int, rows: int, columns: int, pitch: int, step: int) -> bytes:
    """A mem4d DSD of rows and columns; pitch and step in elements."""
    return descriptor(
        abi.DescriptorKind.MEM4D, base=base, extents=(1, 1, rows, columns), strides=(0, 0, pitch, step)
    )


def cycles_of(architecture: image.Architecture, operation: str, *operands: Operand, **more: Any) -> int:
    """What one operation takes on the main thread, less its setup."""

    def main(pe: Pe) -> Iterator[None]:
        before = pe.clock
        yield from pe.vector(operation, *operands)
        pe.store(40000, pe.clock - before)

    code = Code()
    made = program(code.add(main), tasks=(main_task(),), memory_bytes=49152, **more)
    loaded = machine(code, [made], architecture=architecture)
    assert not loaded.run().failed, loaded.failure
    table = load_timing(architecture).entries
    sources = len(operands) - 1
    setup = table["vector.setup_cycles"].values[sources] + table["vector.descriptor_cycles"].values[sources]
    return int(array(loaded, 0, 40000, 1, np.uint32)[0]) - int(setup)


def stride_width(step_words: int) -> int:
    return 2 if step_words != 1 and step_words % 8 in (1, 7) else 1 << 16


def bank_cycles(
    operation: str, width: int, rows: int, columns: int, streams: list[tuple[int, int, int]]
) -> int:
    """The cycles of a destination and its sources in memory, each (byte address, pitch, step) in elements."""
    words = ELEMENT_WORDS[operation]
    inner = 2 if columns > 1 else 1  # where rows have one element, they run down the columns
    steps = [(step if inner == 2 else pitch) * words for _, pitch, step in streams]
    width = min([width, *(stride_width(step) for step in steps)])
    lines, length = (rows, columns) if columns > 1 else (1, rows)
    total = 0
    for line in range(lines):
        for start in range(0, length, width):
            group = np.arange(start, min(start + width, length))
            loads = []
            for (base, pitch, _), step in zip(streams, steps, strict=True):
                first = base // 2 + line * pitch * words + group * step
                first = np.unique(first) if step == 0 else first
                loads.append((first[:, None] + np.arange(words)).ravel() % 8)
            same = len(streams) == 3 and np.array_equal(loads[1], loads[2]) and streams[1] == streams[2]
            reads = loads[1] if same else np.concatenate(loads[1:])
            total += max(np.bincount(reads, minlength=8).max(), np.bincount(loads[0], minlength=8).max())
    return int(total)


@settings(max_examples=120, deadline=None)
@given(
    architecture=st.sampled_from(["wse2", "wse3"]),
    operation=st.sampled_from(["add16", "fadds", "fmacs", "mov16", "fmovs"]),
    rows=st.integers(1, 4),
    columns=st.integers(1, 13),
    places=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 5)), min_size=3, max_size=3
    ),
)
def test_groups_cost_what_their_busiest_bank_has_to_do(
    architecture: image.Architecture,
    operation: str,
    rows: int,
    columns: int,
    places: list[tuple[int, int, int]],
) -> None:
    """Any shape, pitch, stride and placement: as many cycles as words in one bank, row by row."""
    sources = 2 if operation in ("add16", "fadds", "fmacs") else 1
    streams = [
        (4096 * (number + 1) + 4 * place, pitch, max(step, 1) if number == 0 else step)
        for number, (place, pitch, step) in enumerate(places[: sources + 1])
    ]
    operands: list[Operand] = [dsd(grid(base, rows, columns, pitch, step)) for base, pitch, step in streams]
    if operation == "fmacs":
        operands.append(single(2))
    width = int(load_timing(architecture)[f"widths.{operation}"])

    expected = bank_cycles(operation, width, rows, columns, streams)

    assert cycles_of(architecture, operation, *operands) == expected


def test_two_f32_streams_meet_every_sixteen_bytes() -> None:
    """Series J: of all placements of a tile's sums beside its cells a quarter costs twice as much."""
    cycles = [
        cycles_of(
            "wse2", "fmacs", dsd(mem(0, 64)), dsd(mem(0, 64)), dsd(mem(8192 + 4 * place, 64)), single(2)
        )
        for place in range(8)
    ]
    assert cycles == [128, 64, 64, 64, 128, 64, 64, 64]


@pytest.mark.parametrize(("step", "rate"), [(1, 8), (2, 4), (3, 8), (4, 2), (8, 1), (7, 2)])
def test_a_stride_costs_what_its_banks_cost(step: int, rate: int) -> None:
    """Series F: copies of f16 on WSE-3 take 8 / stride elements a cycle; 7 is bound by the public reference."""
    assert cycles_of("wse3", "mov16", dsd(mem(16384, 64)), dsd(mem(0, 64, step))) == 64 // rate


def test_full_width_needs_sources_in_opposite_halves() -> None:
    """The public reference's advice for SIMD: sources whose words lie four banks apart."""
    near = cycles_of("wse2", "add16", dsd(mem(8192, 64)), dsd(mem(0, 64)), dsd(mem(4096, 64)))
    apart = cycles_of("wse2", "add16", dsd(mem(8192, 64)), dsd(mem(0, 64)), dsd(mem(4096 + 8, 64)))
    assert (near, apart) == (32, 16)


def test_the_last_element_of_a_sum_keeps_nobody_waiting() -> None:
    """Each addition waits for the sum before it, two cycles; behind the last one nothing waits."""
    assert cycles_of("wse3", "faddh", pointer(30000), scalar(0), dsd(mem(0, 8))) == 15
