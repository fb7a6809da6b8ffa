"""WSE-1 (2019). No SDK programs it, so what the press did not print is taken from its successor."""

from __future__ import annotations

from openwafer.machine import _sources as src
from openwafer.machine._common import (
    BANK,
    BANKS,
    CACHE,
    COLORS,
    DATA_BITS,
    DSRS,
    MESSAGE_BITS,
    SRAM,
    fabric,
    memory_ports,
    on_chip,
    peak,
)
from openwafer.machine._parts import ClockModel, Extent, Link, Pe, Wafer
from openwafer.machine._quantity import assumed, contested, derive, published

_AS_WSE2 = "taken from the WSE-2, not published for the WSE-1"

_width = published(633, "columns", "wse1-fabric-width", src.ISPD)
_height = published(633, "rows", "wse1-fabric-height", src.ISPD)
_visible = derive("width * height", "PEs", "wse1-pes", src.HERE, {"width": _width, "height": _height})
_cores = published(400_000, "PEs", "wse1-pes", src.ANANDTECH)
_memcpy_columns = assumed(7, "columns", "wse1-memcpy-columns", _AS_WSE2)
_memcpy_rows = assumed(2, "rows", "wse1-memcpy-rows", _AS_WSE2)
_usable_width = derive(
    "width - memcpy", "columns", "wse1-usable-width", src.HERE, {"width": _width, "memcpy": _memcpy_columns}
)
_usable_height = derive(
    "height - memcpy", "rows", "wse1-usable-height", src.HERE, {"height": _height, "memcpy": _memcpy_rows}
)
_read = assumed(2, "ports", "wse1-pe-read-ports", _AS_WSE2)
_write = assumed(1, "ports", "wse1-pe-write-ports", _AS_WSE2)
_port_bits, _memory = memory_ports("wse1", _read, _write, assumed(64, "b", "wse1-pe-port-bits", _AS_WSE2))
_simd = published(4, "FMA/cycle", "wse1-simd-fp16", src.NEXTPLATFORM)
_power = published(15e3, "W", "wse1-power", src.TOMS_CS1)

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
    ramp_cycles=assumed(2, "cycles", "wse1-ramp", _AS_WSE2),
    peak_watts=derive("wafer / pes", "W", "wse1-pe-power", src.HERE, {"wafer": _power, "pes": _visible}),
)

_bandwidth = published(9.6e15, "B/s", "wse1-on-chip", src.TWEAKERS)
_vendor_peak = derive(
    "bandwidth / (cores * bytes)",
    "Hz",
    "wse1-clock",
    "the clock at which the printed bandwidth comes out",
    {"bandwidth": _bandwidth, "cores": _cores, "bytes": _memory},
)
_compiler = assumed(850e6, "Hz", "wse1-clock", _AS_WSE2)

WSE1 = Wafer(
    name="WSE-1",
    marketing_cores=_cores,
    fabric=Extent(width=_width, height=_height),
    usable=Extent(width=_usable_width, height=_usable_height),
    pes=contested(_visible, _cores, reason="the contest's grid; the data sheet rounds it"),
    usable_pes=derive(
        "width * height",
        "PEs",
        "wse1-usable-pes",
        src.HERE,
        {"width": _usable_width, "height": _usable_height},
    ),
    sram_bytes=contested(
        published(18e9, "B", "wse1-sram", src.ANANDTECH),
        derive("pes * sram", "B", "wse1-sram", src.HERE, {"pes": _visible, "sram": SRAM}),
        reason="the smaller: a plan that fits it fits both. 19.69 GB are 18.3 GiB, so 18 may be GiB",
    ),
    on_chip_bytes_per_s=contested(
        published(9e15, "B/s", "wse1-on-chip", f"{src.ANANDTECH}; {src.TOMS_CS1}"),
        _bandwidth,
        on_chip("wse1", _visible, _pe, _compiler),
        reason="two sources print it; 9.6 PB/s is 400,000 PEs at 1 GHz",
    ),
    fabric_bits_per_s=contested(
        published(100e15, "b/s", "wse1-fabric-bandwidth", src.ANANDTECH),
        fabric("wse1", _visible, _vendor_peak),
        fabric("wse1", _visible, _compiler),
        reason="the published figure, within 3 % of the product of its parts at the vendor's clock",
    ),
    peak_fp16_flops_per_s=peak("wse1", _visible, _simd, _vendor_peak),
    power_watts=_power,
    clock=ClockModel(
        compiler_hz=_compiler,
        vendor_peak_hz=_vendor_peak,
        default_hz=contested(
            _compiler,
            _vendor_peak,
            reason="the slower clock, as for the WSE-2: seconds are not promised too short",
        ),
    ),
    pe=_pe,
    link=Link(
        data_bits=DATA_BITS,
        message_bits=MESSAGE_BITS,
        wavelets_per_cycle=published(1, "wavelets/cycle", "wse1-link-rate", src.ISPD),
        hop_cycles=assumed(1, "cycles", "wse1-hop", _AS_WSE2),
    ),
)
"""The first wafer. Its clock, memory ports, hop and ramp are assumed; see docs/facts.md#wse1-clock."""
