"""WSE-2 (2021): the wafer of the public SDK programs and of most published measurements."""

from __future__ import annotations

from openwafer.machine import _sources as src
from openwafer.machine._common import (
    BANK,
    BANKS,
    CACHE,
    CG1_SPARSE,
    CG1_SYSTEMS,
    COLORS,
    DATA_BITS,
    DENSE_WSE2,
    DSRS,
    MEMCPY_COLUMNS,
    MEMCPY_ROWS,
    MESSAGE_BITS,
    SPARSITY,
    SRAM,
    fabric,
    memory_ports,
    on_chip,
    peak,
)
from openwafer.machine._parts import ClockModel, Extent, Link, Pe, Wafer
from openwafer.machine._quantity import contested, derive, measured, published

_width = contested(
    published(757, "columns", "wse2-fabric-width", src.SDK_DOCS),
    published(750, "columns", "wse2-fabric-width", src.SDK_MATVEC),
    reason="757 less the 7 memcpy columns is 750: the README names the usable rectangle",
)
_height = contested(
    published(996, "rows", "wse2-fabric-height", src.SDK_DOCS),
    published(994, "rows", "wse2-fabric-height", src.SDK_MATVEC),
    reason="996 less the 2 memcpy rows is 994: the README names the usable rectangle",
)
_visible = derive("width * height", "PEs", "wse2-pes", src.HERE, {"width": _width, "height": _height})
_cores = published(850_000, "PEs", "wse2-pes", f"{src.ANANDTECH}; {src.TOMS}")
_usable_width = contested(
    derive(
        "width - memcpy",
        "columns",
        "wse2-usable-width",
        src.HERE,
        {"width": _width, "memcpy": MEMCPY_COLUMNS},
    ),
    measured(755, "columns", "wse2-usable-width", src.TOTAL),
    reason="what the public memcpy library leaves; how the run freed five more columns is not public",
)
_usable_height = derive(
    "height - memcpy", "rows", "wse2-usable-height", src.HERE, {"height": _height, "memcpy": MEMCPY_ROWS}
)

_compiler = published(850e6, "Hz", "wse2-clock", f"{src.SDK_EXAMPLES}; vendor compile reports")
_vendor_peak = published(1.1e9, "Hz", "wse2-clock", src.HC34)
_simd = published(4, "FMA/cycle", "wse2-simd-fp16", f"{src.SIMD_DOCS}; {src.JAMES}")
_read = published(2, "ports", "wse2-pe-read-ports", f"{src.HC34}; {src.SDK_DOCS}")
_write = published(1, "ports", "wse2-pe-write-ports", f"{src.HC34}; {src.SDK_DOCS}")
_port_bits, _memory = memory_ports("wse2", _read, _write, published(64, "b", "wse2-pe-port-bits", src.HC34))

_pe = Pe(
    sram_bytes=SRAM,
    sram_banks=BANKS,
    sram_bank_bytes=BANK,
    cache_bytes=CACHE,
    read_ports=_read,
    write_ports=_write,
    port_bits=_port_bits,
    memory_bytes_per_cycle=_memory,
    simd_fp16=_simd,
    colors=COLORS,
    dsrs=DSRS,
    ramp_cycles=contested(
        measured(2, "cycles", "wse2-ramp", src.HPDC),
        published(5, "cycles", "wse2-ramp", f"{src.SC24}, p. 8"),
        reason="a model with 2 cycles predicts CS-2 collectives within 4 % (broadcast: 8-21 %)",
    ),
    peak_watts=published(0.030, "W", "wse2-pe-power", src.HC34),
)

WSE2 = Wafer(
    name="WSE-2",
    marketing_cores=_cores,
    fabric=Extent(width=_width, height=_height),
    usable=Extent(width=_usable_width, height=_usable_height),
    pes=contested(
        _visible, _cores, reason="the SDK does not show the other 96,028 cores, 11 % of the data sheet's"
    ),
    usable_pes=derive(
        "width * height",
        "PEs",
        "wse2-usable-pes",
        src.HERE,
        {"width": _usable_width, "height": _usable_height},
    ),
    sram_bytes=contested(
        derive("pes * sram", "B", "wse2-sram", src.HERE, {"pes": _visible, "sram": SRAM}),
        published(40e9, "B", "wse2-sram", f"{src.ANANDTECH}; {src.TOMS}"),
        derive("cores * 48000", "B", "wse2-sram", "48 KB read as 48,000 B", {"cores": _cores}),
        derive("cores * sram", "B", "wse2-sram", src.HERE, {"cores": _cores, "sram": SRAM}),
        reason="the smallest: what the visible PEs hold, so a plan that fits it fits the machine",
    ),
    on_chip_bytes_per_s=contested(
        published(20e15, "B/s", "wse2-on-chip", src.ANANDTECH),
        on_chip("wse2", _visible, _pe, _vendor_peak),
        on_chip("wse2", _visible, _pe, _compiler),
        reason="the visible fabric reproduces it at the vendor's clock",
    ),
    fabric_bits_per_s=contested(
        published(220e15, "b/s", "wse2-fabric-bandwidth", src.ANANDTECH),
        published(224e15, "b/s", "wse2-fabric-bandwidth", f"{src.JAMES} (printed as 28 PB/s)"),
        fabric("wse2", _visible, _vendor_peak),
        fabric("wse2", _visible, _compiler),
        reason="the published figure nearest to the product of its parts at the vendor's clock",
    ),
    peak_fp16_flops_per_s=contested(
        DENSE_WSE2,
        peak("wse2", _cores, _simd, _vendor_peak),
        peak("wse2", _visible, _simd, _vendor_peak),
        peak("wse2", _visible, _simd, _compiler),
        reason="published utilizations are relative to it; it counts the data sheet's cores",
    ),
    sparse_fp16_flops_per_s=contested(
        derive(
            "cluster / systems",
            "FLOP/s",
            "wse2-sparse-peak",
            src.HERE,
            {"cluster": CG1_SPARSE, "systems": CG1_SYSTEMS},
        ),
        derive(
            "dense * sparsity",
            "FLOP/s",
            "wse2-sparse-peak",
            src.HERE,
            {"dense": DENSE_WSE2, "sparsity": SPARSITY},
        ),
        reason="the vendor's own cluster figure, and exactly half of the WSE-3's 125 PFLOP/s",
    ),
    power_watts=published(15e3, "W", "wse2-power", src.SURVEYS),
    clock=ClockModel(
        compiler_hz=_compiler,
        vendor_peak_hz=_vendor_peak,
        default_hz=contested(
            _compiler,
            _vendor_peak,
            reason="public programs and compile reports convert with it; 1.1 GHz stands behind peaks only",
        ),
    ),
    pe=_pe,
    link=Link(
        data_bits=DATA_BITS,
        message_bits=MESSAGE_BITS,
        wavelets_per_cycle=measured(1, "wavelets/cycle", "wse2-link-rate", src.HPDC),
        hop_cycles=contested(
            published(1, "cycles", "wse2-hop", f"{src.SC24}, p. 8; {src.HPDC}"),
            published(2, "cycles", "wse2-hop", src.SDK_TOPIC_13),
            reason="measurements on silicon fit one cycle; two is what the SDK simulator prints since 1.2",
        ),
    ),
)
"""The second wafer. Seconds use 850 MHz, distances one cycle a hop; docs/facts.md#contradictions."""
