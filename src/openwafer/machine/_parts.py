"""What a wafer, a system and a cluster are made of. Every field that holds a number is a Fact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from openwafer.machine._quantity import Contested, Fact, Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A rectangle of PEs: `width` columns (x) and `height` rows (y)."""

    width: Fact
    height: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockModel:
    """What turns cycles into seconds. A report prints the clock that it used.

    vendor_peak_hz: the clock behind the vendor's peak figures. compiler_hz: the clock that the SDK's
    programs and the compiler's reports convert with. default_hz: the one openwafer uses.
    """

    compiler_hz: Fact
    vendor_peak_hz: Fact
    default_hz: Contested


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of the connection between neighbouring routers.

    A message is the 32 bits of data, the color and a control bit. hop_cycles: router to router.
    """

    data_bits: Fact
    message_bits: Fact
    wavelets_per_cycle: Fact
    hop_cycles: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Pe:
    """One processing element: memory, datapath and the ramp to its router.

    dsrs: data structure registers in each of the files dest, src0 and src1.
    simd_fp16: fp16 multiply-adds a cycle. ramp_cycles: router to core, or core to router.
    memory_bytes_per_cycle: all read and write ports together.
    """

    sram_bytes: Fact
    sram_banks: Fact
    sram_bank_bytes: Fact
    cache_bytes: Fact
    read_ports: Fact
    write_ports: Fact
    port_bits: Fact
    memory_bytes_per_cycle: Fact
    simd_fp16: Fact
    colors: Fact
    dsrs: Fact
    ramp_cycles: Fact
    peak_watts: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Wafer:
    """One Wafer-Scale Engine.

    marketing_cores: the count on the data sheet. fabric: the PEs that the SDK sees. usable: the
    largest rectangle that one program gets beside the host's memcpy plumbing. pes: the count to
    compute with. The wafer-wide rates (on_chip, fabric, peak) are the vendor's, at vendor_peak_hz;
    do not combine them with compiler_hz. fabric_bits_per_s counts every PE's four links in both
    directions.
    """

    name: str
    marketing_cores: Quantity
    fabric: Extent
    usable: Extent
    pes: Contested
    usable_pes: Fact
    sram_bytes: Fact
    on_chip_bytes_per_s: Fact
    fabric_bits_per_s: Fact
    peak_fp16_flops_per_s: Fact
    sparse_fp16_flops_per_s: Fact | None = None
    power_watts: Fact
    clock: ClockModel
    pe: Pe
    link: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLink:
    """Rates between a host and the wafer as an SDK program sees them, far below the system's I/O."""

    stream_bytes_per_s: Fact
    pinned_streams: Fact
    pinned_streams_bytes_per_s: Fact
    memcpy_h2d_bytes_per_s: Fact
    memcpy_d2h_bytes_per_s: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One box around one wafer. io: its Ethernet ports together, each direction."""

    name: str
    wafer: Wafer
    io_ports: Fact
    io_port_bits_per_s: Fact
    io_bits_per_s: Fact
    io_bytes_per_s: Fact
    idle_watts: Fact
    peak_watts: Fact
    host: HostLink | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryX:
    """The parameter store as it was sold with one generation of systems. sizes_bytes rises."""

    sizes_bytes: tuple[Fact, ...]
    stream_bits_per_parameter: Fact
    max_parameters: Fact | None = None
    bytes_per_parameter: Fact | None = None
    bytes_per_s: Fact | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmX:
    """The tree between MemoryX and the systems.

    network_bits_per_s: all its ports together. scaling_overhead: e in speedup(n) = n / (1 + (n - 1) e).
    """

    network_bits_per_s: Fact
    scaling_systems: Fact
    scaling_speedup: Fact
    scaling_overhead: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Equal servers with one role beside the systems."""

    role: str
    count: Fact
    memory_bytes: Fact | None = None
    network_ports: Fact | None = None
    network_port_bits_per_s: Fact | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Systems with MemoryX, SwarmX and servers. memory_bytes: the MemoryX of this installation."""

    name: str
    system: System
    systems: Fact
    cores: Fact
    peak_fp16_flops_per_s: Fact
    sparse_fp16_flops_per_s: Fact | None = None
    memory_bytes: Fact | None = None
    cpu_cores: Fact | None = None
    nodes: tuple[NodeGroup, ...] = ()
    memoryx: MemoryX
    swarmx: SwarmX


Machine: TypeAlias = Wafer | System | Cluster
