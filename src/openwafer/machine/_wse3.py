"""WSE-3 (2024): twice the fp16 width of the WSE-2 on a taller fabric."""

from __future__ import annotations

from openwafer.machine import _sources as src
from openwafer.machine._common import (
    BANK,
    BANKS,
    CACHE,
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
from openwafer.machine._quantity import assumed, contested, derive, measured, published

_AS_WSE2 = "taken from the WSE-2, not re-read for the WSE-3"

_width = published(762, "columns", "wse3-fabric-width", f"{src.ALCF_CSL}; {src.SDK_DOCS}")
_height = contested(
    published(1172, "rows", "wse3-fabric-height", src.ALCF_CSL),
    published(1176, "rows", "wse3-fabric-height", src.SDK_DOCS),
    reason="programs ran on real CS-3 systems with 1172 rows, and 44 GB fits it",
)
_visible = derive("width * height", "PEs", "wse3-pes", src.HERE, {"width": _width, "height": _height})
_cores = published(900_000, "PEs", "wse3-pes", f"{src.TOMS}; {src.ALCF}")
_usable_width = derive(
    "width - memcpy", "columns", "wse3-usable-width", src.HERE, {"width": _width, "memcpy": MEMCPY_COLUMNS}
)
_usable_height = derive(
    "height - memcpy", "rows", "wse3-usable-height", src.HERE, {"height": _height, "memcpy": MEMCPY_ROWS}
)

_compiler = published(850e6, "Hz", "wse3-clock", src.SDK_EXAMPLES)
_vendor_peak = published(1.1e9, "Hz", "wse3-clock", src.WAFERLLM)
_simd = contested(
    published(8, "FMA/cycle", "wse3-simd-fp16", f"{src.SIMD_DOCS}; {src.NEXTPLATFORM}"),
    measured(4.0, "FMA/cycle", "wse3-simd-fp16", f"{src.SERIES_F}, simulator"),
    measured(2.92, "FMA/cycle", "wse3-simd-fp16", f"{src.SERIES_F}, silicon"),
    reason="the width of the datapath; the lower rates are of one kernel and its bank placement",
)
_read = assumed(2, "ports", "wse3-pe-read-ports", _AS_WSE2)
_write = assumed(1, "ports", "wse3-pe-write-ports", _AS_WSE2)
_port_bits, _memory = memory_ports("wse3", _read, _write, assumed(64, "b", "wse3-pe-port-bits", _AS_WSE2))

CS3_PEAK_WATTS = assumed(
    23e3, "W", "cs3-peak-power", "upper end of the 15-23 kW class that talks and press give"
)

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
        published(5, "cycles", "wse3-ramp", f"{src.SC24}, p. 8"),
        measured(7, "cycles", "wse3-ramp", f"{src.SERIES_F}, core to router, from dispatch"),
        measured(3, "cycles", "wse3-ramp", f"{src.SERIES_F}, router to core"),
        reason="7 out and 3 in make the same 10 cycles a message as 5 each way",
    ),
    peak_watts=derive(
        "system / pes", "W", "wse3-pe-power", src.HERE, {"system": CS3_PEAK_WATTS, "pes": _visible}
    ),
)

_sparse = published(125e15, "FLOP/s", "wse3-sparse-peak", f"{src.CS3_LAUNCH}; {src.TOMS}")
_dense = peak("wse3", _visible, _simd, _vendor_peak)

WSE3 = Wafer(
    name="WSE-3",
    marketing_cores=_cores,
    fabric=Extent(width=_width, height=_height),
    usable=Extent(width=_usable_width, height=_usable_height),
    pes=contested(_visible, _cores, reason="what programs see; the data sheet rounds it up by 0.8 %"),
    usable_pes=derive(
        "width * height",
        "PEs",
        "wse3-usable-pes",
        src.HERE,
        {"width": _usable_width, "height": _usable_height},
    ),
    sram_bytes=contested(
        derive("pes * sram", "B", "wse3-sram", src.HERE, {"pes": _visible, "sram": SRAM}),
        published(44e9, "B", "wse3-sram", f"{src.TOMS}; {src.ALCF}"),
        reason="the smaller; the published figure is this one, rounded",
    ),
    on_chip_bytes_per_s=contested(
        published(24e15, "B/s", "wse3-on-chip", src.SC24),
        published(25e15, "B/s", "wse3-on-chip", f"{src.SC24}, upper figure"),
        published(21e15, "B/s", "wse3-on-chip", f"{src.CS3_LAUNCH}; {src.TOMS}"),
        on_chip("wse3", _visible, _pe, _vendor_peak),
        on_chip("wse3", _visible, _pe, _compiler),
        reason="the published figure nearest to the product of its parts at the vendor's clock",
    ),
    fabric_bits_per_s=contested(
        published(245e15, "b/s", "wse3-fabric-bandwidth", src.SC24),
        published(214e15, "b/s", "wse3-fabric-bandwidth", f"{src.CS3_LAUNCH}; {src.TOMS}"),
        fabric("wse3", _visible, _vendor_peak),
        fabric("wse3", _visible, _compiler),
        reason="the published figure nearest to the product of its parts at the vendor's clock",
    ),
    peak_fp16_flops_per_s=contested(
        _dense,
        derive(
            "sparse / sparsity", "FLOP/s", "wse3-peak", src.HERE, {"sparse": _sparse, "sparsity": SPARSITY}
        ),
        derive("2 * wse2", "FLOP/s", "wse3-peak", f"{src.CS3_LAUNCH}: twice the WSE-2", {"wse2": DENSE_WSE2}),
        peak("wse3", _visible, _simd, _compiler),
        reason="no dense peak is printed; eight times this one is the printed sparse peak within 1 %",
    ),
    sparse_fp16_flops_per_s=contested(
        _sparse,
        derive(
            "dense * sparsity",
            "FLOP/s",
            "wse3-sparse-peak",
            src.HERE,
            {"dense": _dense, "sparsity": SPARSITY},
        ),
        reason="printed as AI performance; it counts zeros that were skipped",
    ),
    power_watts=assumed(15e3, "W", "wse3-power", "launch coverage: the power envelope of the WSE-2"),
    clock=ClockModel(
        compiler_hz=_compiler,
        vendor_peak_hz=_vendor_peak,
        default_hz=contested(
            _compiler,
            measured(875e6, "Hz", "wse3-clock", src.SERIES_FL),
            _vendor_peak,
            reason="the SDK's convention, 3 % below what users measured; teams on real systems use both ends",
        ),
    ),
    pe=_pe,
    link=Link(
        data_bits=DATA_BITS,
        message_bits=MESSAGE_BITS,
        wavelets_per_cycle=contested(
            published(1, "wavelets/cycle", "wse3-link-rate", f"{src.SDK_DOCS}; {src.SERIES_F}, simulator"),
            derive(
                "1 / cycles",
                "wavelets/cycle",
                "wse3-link-rate",
                src.HERE,
                {"cycles": measured(1.125, "cycles", "wse3-wavelet-cycles", f"{src.SERIES_F}, silicon")},
            ),
            reason="the rate of the link itself; the slower one is of a whole program on silicon",
        ),
        hop_cycles=contested(
            measured(2, "cycles", "wse3-hop", f"{src.WAFERENGINE}; {src.SERIES_F}"),
            published(1, "cycles", "wse3-hop", f"{src.SC24}, p. 8"),
            reason="measured on CS-3 systems, exact over 8 and 32 hops",
        ),
    ),
)
"""The third wafer. Seconds use 850 MHz, distances two cycles a hop; docs/facts.md#contradictions."""
