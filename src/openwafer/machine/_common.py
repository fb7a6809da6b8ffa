"""Numbers that all generations share, and the arithmetic that makes wafer-wide numbers from PEs."""

from __future__ import annotations

from typing import Final

from openwafer.base import KIB
from openwafer.machine import _sources as src
from openwafer.machine._parts import Pe
from openwafer.machine._quantity import Contested, Fact, Quantity, assumed, contested, derive, published

SRAM: Final = published(48 * KIB, "B", "pe-sram", f"{src.SDK_DOCS}; {src.ISPD}")
BANKS: Final = published(8, "banks", "pe-banks", f"{src.HC34}; {src.SDK_DOCS}")
BANK: Final = derive("sram / banks", "B", "pe-bank", src.HERE, {"sram": SRAM, "banks": BANKS})
CACHE: Final = contested(
    published(256, "B", "pe-cache", src.HC34),
    published(0, "B", "pe-cache", src.SDK_DOCS),
    reason="a program's memory budget is the SRAM either way",
)
COLORS: Final = published(24, "colors", "pe-colors", f"{src.SDK_DOCS}; {src.SC24}")
DSRS: Final = assumed(
    16, "registers", "pe-dsrs", "the power of two above the highest number in public programs, 11"
)

DATA_BITS: Final = published(32, "b", "link-data", f"{src.SDK_DOCS}; {src.JAMES}")
MESSAGE_BITS: Final = derive(
    "data + color + control",
    "b",
    "link-message",
    f"equals the 38 b of {src.JAMES}",
    {
        "data": DATA_BITS,
        "color": published(5, "b", "link-color", src.SDK_DOCS),
        "control": published(1, "b", "link-control", src.SDK_DOCS),
    },
)

MEMCPY_COLUMNS: Final = published(7, "columns", "memcpy-columns", src.SDK_MATVEC)
MEMCPY_ROWS: Final = published(2, "rows", "memcpy-rows", src.SDK_MATVEC)

SPARSITY: Final = assumed(
    8, "x", "sparsity-factor", "inferred: the ratio of sparse to dense peak, WSE-3 and CG-1"
)

ANDROMEDA_SYSTEMS: Final = published(16, "systems", "andromeda-systems", src.TOMS_ANDROMEDA)
ANDROMEDA_PEAK: Final = published(120e15, "FLOP/s", "andromeda-peak", src.TOMS_ANDROMEDA)
DENSE_WSE2: Final = derive(
    "cluster / systems",
    "FLOP/s",
    "wse2-peak",
    "Andromeda's peak over its systems",
    {"cluster": ANDROMEDA_PEAK, "systems": ANDROMEDA_SYSTEMS},
)

CG1_SYSTEMS: Final = published(64, "systems", "cg1-systems", src.CG1)
CG1_SPARSE: Final = published(4e18, "FLOP/s", "cg1-sparse-peak", src.CG1)


def memory_ports(wafer: str, read: Quantity, write: Quantity, wide: Quantity) -> tuple[Contested, Contested]:
    """Port width and bytes a cycle of a PE: the wide ports, contested by the guide's 32-bit ones."""
    narrow = published(32, wide.unit, wide.anchor, src.SDK_DOCS)
    formula, anchor = "(read + write) * bits / 8", f"{wafer}-pe-memory"
    return (
        contested(
            wide, narrow, reason="the guide itself allows 64 bits on the wide paths, which 20 PB/s needs"
        ),
        contested(
            derive(formula, "B/cycle", anchor, src.HERE, {"read": read, "write": write, "bits": wide}),
            derive(formula, "B/cycle", anchor, src.HERE, {"read": read, "write": write, "bits": narrow}),
            reason="only the wide ports reproduce the vendor's on-chip bandwidth",
        ),
    )


def on_chip(wafer: str, pes: Fact, pe: Pe, clock: Fact) -> Quantity:
    """All memory ports of `pes` PEs at `clock`."""
    return derive(
        "pes * bytes * clock",
        "B/s",
        f"{wafer}-on-chip",
        src.HERE,
        {"pes": pes, "bytes": pe.memory_bytes_per_cycle, "clock": clock},
    )


def fabric(wafer: str, pes: Fact, clock: Fact) -> Quantity:
    """Four links in two directions at each of `pes` PEs, one wavelet of data a cycle."""
    return derive(
        "pes * 4 * 2 * bits * clock",
        "b/s",
        f"{wafer}-fabric-bandwidth",
        src.HERE,
        {"pes": pes, "bits": DATA_BITS, "clock": clock},
    )


def peak(wafer: str, pes: Fact, simd_fp16: Fact, clock: Fact) -> Quantity:
    """fp16 multiply-adds of `pes` PEs, two operations each, at `clock`."""
    return derive(
        "pes * simd * 2 * clock",
        "FLOP/s",
        f"{wafer}-peak",
        src.HERE,
        {"pes": pes, "simd": simd_fp16, "clock": clock},
    )
