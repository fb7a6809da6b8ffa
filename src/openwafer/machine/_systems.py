"""CS-1, CS-2 and CS-3: a wafer, its Ethernet ports and its power."""

from __future__ import annotations

from openwafer.machine import _sources as src
from openwafer.machine._parts import HostLink, System
from openwafer.machine._quantity import Fact, Quantity, assumed, contested, derive, measured, published
from openwafer.machine._wse1 import WSE1
from openwafer.machine._wse2 import WSE2
from openwafer.machine._wse3 import CS3_PEAK_WATTS, WSE3


def _io(system: str, ports: Fact, port_bits_per_s: Fact, printed: str) -> tuple[Quantity, Quantity]:
    """All ports together in b/s, and the same in B/s."""
    io = derive(
        "ports * rate", "b/s", f"{system}-io", f"equals {printed}", {"ports": ports, "rate": port_bits_per_s}
    )
    return io, derive("io / 8", "B/s", f"{system}-io-bytes", src.HERE, {"io": io})


_cs1_ports = published(12, "ports", "cs1-io-ports", src.TWEAKERS)
_cs1_rate = published(100e9, "b/s", "cs1-io-port-rate", src.TWEAKERS)
_cs1_io, _cs1_io_bytes = _io("cs1", _cs1_ports, _cs1_rate, "the 1.2 Tb/s remembered for the CS-1")

CS1 = System(
    name="CS-1",
    wafer=WSE1,
    io_ports=_cs1_ports,
    io_port_bits_per_s=_cs1_rate,
    io_bits_per_s=_cs1_io,
    io_bytes_per_s=_cs1_io_bytes,
    idle_watts=assumed(15e3, "W", "cs1-idle-power", "lower end of the remembered 15-20 kW"),
    peak_watts=published(20e3, "W", "cs1-peak-power", f"{src.TOMS_CS1}; {src.TWEAKERS}"),
)
"""The system around the WSE-1."""

_cs2_ports = published(12, "ports", "cs2-io-ports", src.IO_MATERIAL)
_cs2_rate = published(100e9, "b/s", "cs2-io-port-rate", src.IO_MATERIAL)
_cs2_io, _cs2_io_bytes = _io("cs2", _cs2_ports, _cs2_rate, "the printed 1.2 Tb/s")

CS2 = System(
    name="CS-2",
    wafer=WSE2,
    io_ports=_cs2_ports,
    io_port_bits_per_s=_cs2_rate,
    io_bits_per_s=_cs2_io,
    io_bytes_per_s=_cs2_io_bytes,
    idle_watts=measured(16.1e3, "W", "cs2-idle-power", src.TOTAL),
    peak_watts=contested(
        measured(22.9e3, "W", "cs2-peak-power", src.TOTAL),
        derive(
            "pes * pe",
            "W",
            "cs2-peak-power",
            "wafer alone, every core at its peak",
            {"pes": WSE2.pes, "pe": WSE2.pe.peak_watts},
        ),
        derive(
            "cores * pe",
            "W",
            "cs2-peak-power",
            "wafer alone, the data sheet's cores",
            {"cores": WSE2.marketing_cores, "pe": WSE2.pe.peak_watts},
        ),
        reason="measured on a system in a run of 10 million steps",
    ),
)
"""The system around the WSE-2."""

_cs3_ports = published(12, "ports", "cs3-io-ports", src.IO_MATERIAL)
_cs3_rate = published(100e9, "b/s", "cs3-io-port-rate", src.IO_MATERIAL)
_cs3_io, _cs3_io_bytes = _io("cs3", _cs3_ports, _cs3_rate, "the printed 1.2 Tb/s")

CS3 = System(
    name="CS-3",
    wafer=WSE3,
    io_ports=_cs3_ports,
    io_port_bits_per_s=_cs3_rate,
    io_bits_per_s=_cs3_io,
    io_bytes_per_s=_cs3_io_bytes,
    idle_watts=assumed(
        15e3, "W", "cs3-idle-power", "lower end of the 15-23 kW class that talks and press give"
    ),
    peak_watts=CS3_PEAK_WATTS,
    host=HostLink(
        stream_bytes_per_s=measured(1.08e9, "B/s", "cs3-host-stream", src.WAFERENGINE),
        pinned_streams=measured(16, "streams", "cs3-host-pinned-streams", src.WAFERENGINE),
        pinned_streams_bytes_per_s=contested(
            measured(11e9, "B/s", "cs3-host-pinned-rate", src.WAFERENGINE),
            measured(15e9, "B/s", "cs3-host-pinned-rate", f"{src.WAFERENGINE}, best run"),
            reason="the lower end of what 16 streams reached",
        ),
        memcpy_h2d_bytes_per_s=contested(
            measured(9.2e9, "B/s", "cs3-host-h2d", f"{src.WAFERENGINE}, 512 x 512 PEs"),
            measured(5.2e9, "B/s", "cs3-host-h2d", f"{src.WAFERENGINE}, 64 x 16 PEs"),
            reason="the larger rectangle is nearer to a whole wafer",
        ),
        memcpy_d2h_bytes_per_s=contested(
            measured(1.9e9, "B/s", "cs3-host-d2h", f"{src.WAFERENGINE}, 512 x 512 PEs"),
            measured(4.8e9, "B/s", "cs3-host-d2h", f"{src.WAFERENGINE}, 64 x 16 PEs"),
            reason="the larger rectangle is nearer to a whole wafer",
        ),
    ),
)
"""The system around the WSE-3."""
