"""Installations: Andromeda, Condor Galaxy 1, ALCF's CS-3 cluster and the largest that are offered."""

from __future__ import annotations

from openwafer.base import GIB
from openwafer.machine import _sources as src
from openwafer.machine._common import ANDROMEDA_PEAK, ANDROMEDA_SYSTEMS, CG1_SPARSE, CG1_SYSTEMS
from openwafer.machine._parts import Cluster, MemoryX, NodeGroup, SwarmX, System
from openwafer.machine._quantity import Contested, Fact, Quantity, assumed, contested, derive, published
from openwafer.machine._systems import CS2, CS3

_weight_bits = published(32, "b", "memoryx-stream-bits", src.WHITEPAPER)
_max_cs2 = published(2.4e15, "B", "memoryx-cs2-largest", src.MEMORYX_2021)
_max_parameters = published(120e12, "parameters", "memoryx-cs2-parameters", src.MEMORYX_2021)

MEMORYX_CS2 = MemoryX(
    sizes_bytes=(published(4e12, "B", "memoryx-cs2-smallest", src.MEMORYX_2021), _max_cs2),
    stream_bits_per_parameter=_weight_bits,
    max_parameters=_max_parameters,
    bytes_per_parameter=derive(
        "bytes / parameters",
        "B/parameter",
        "memoryx-cs2-per-parameter",
        src.HERE,
        {"bytes": _max_cs2, "parameters": _max_parameters},
    ),
    bytes_per_s=published(4e12, "B/s", "memoryx-cs2-bandwidth", src.WHITEPAPER),
)
"""MemoryX of the CS-2 generation, smallest and largest."""

_SKU = "remembered list of CS-3 options, 24/36/120/1200 TB"

MEMORYX_CS3 = MemoryX(
    sizes_bytes=(
        published(1.5e12, "B", "memoryx-cs3-sizes", src.TOMS),
        published(12e12, "B", "memoryx-cs3-sizes", f"{src.TOMS}; {src.WSC}"),
        assumed(24e12, "B", "memoryx-cs3-sizes", _SKU),
        assumed(36e12, "B", "memoryx-cs3-sizes", _SKU),
        assumed(120e12, "B", "memoryx-cs3-sizes", _SKU),
        published(1.2e15, "B", "memoryx-cs3-sizes", f"{src.TOMS}; {src.WSC}"),
    ),
    stream_bits_per_parameter=_weight_bits,
)
"""MemoryX of the CS-3 generation, every size that was named."""

_scaling_systems = published(16, "systems", "swarmx-scaling-systems", src.AIWIRE)
_scaling_speedup = published(15.3, "x", "swarmx-scaling-speedup", src.AIWIRE)
_scaling_overhead = derive(
    "(systems / speedup - 1) / (systems - 1)",
    "per system",
    "swarmx-scaling-overhead",
    src.HERE,
    {"systems": _scaling_systems, "speedup": _scaling_speedup},
)


def _swarmx(cluster: str, systems: Fact, system: System, *printed: Quantity) -> SwarmX:
    """The systems' own I/O is the default: traffic into a system cannot exceed it."""
    own = derive(
        "systems * io",
        "b/s",
        f"{cluster}-network",
        src.HERE,
        {"systems": systems, "io": system.io_bits_per_s},
    )
    network: Fact = own
    if printed:
        network = contested(
            own,
            *printed,
            reason="what the systems can take in; the printed total is five times it and unexplained",
        )
    return SwarmX(
        network_bits_per_s=network,
        scaling_systems=_scaling_systems,
        scaling_speedup=_scaling_speedup,
        scaling_overhead=_scaling_overhead,
    )


def _cores(cluster: str, systems: Fact, system: System) -> Quantity:
    parts = {"systems": systems, "cores": system.wafer.marketing_cores}
    return derive("systems * cores", "PEs", f"{cluster}-cores", src.HERE, parts)


def _peak(cluster: str, systems: Fact, system: System) -> Quantity:
    parts = {"systems": systems, "peak": system.wafer.peak_fp16_flops_per_s}
    return derive("systems * peak", "FLOP/s", f"{cluster}-peak", src.HERE, parts)


def _printed_cores(printed: Quantity, computed: Quantity) -> Contested:
    return contested(
        printed, computed, reason="as announced; the product of the data sheet's cores is up to 1 % more"
    )


ANDROMEDA = Cluster(
    name="Andromeda",
    system=CS2,
    systems=ANDROMEDA_SYSTEMS,
    cores=_printed_cores(
        published(13.5e6, "PEs", "andromeda-cores", src.TOMS_ANDROMEDA),
        _cores("andromeda", ANDROMEDA_SYSTEMS, CS2),
    ),
    peak_fp16_flops_per_s=ANDROMEDA_PEAK,
    nodes=(
        NodeGroup(
            role="server",
            count=published(284, "nodes", "andromeda-servers", src.TOMS_ANDROMEDA),
            memory_bytes=published(128e9, "B", "andromeda-server-memory", src.TOMS_ANDROMEDA),
            network_ports=published(2, "ports", "andromeda-server-ports", src.TOMS_ANDROMEDA),
            network_port_bits_per_s=published(100e9, "b/s", "andromeda-server-port-rate", src.TOMS_ANDROMEDA),
        ),
    ),
    memoryx=MEMORYX_CS2,
    swarmx=_swarmx(
        "andromeda",
        ANDROMEDA_SYSTEMS,
        CS2,
        published(96.8e12, "b/s", "andromeda-network", src.TOMS_ANDROMEDA),
    ),
)
"""16 CS-2, 2022."""

_cg1_phase1 = published(32, "systems", "cg1-phase-1-systems", src.CG1)

CONDOR_GALAXY_1_PHASE_1 = Cluster(
    name="Condor Galaxy 1 phase 1",
    system=CS2,
    systems=_cg1_phase1,
    cores=_cores("cg1-phase-1", _cg1_phase1, CS2),
    peak_fp16_flops_per_s=_peak("cg1-phase-1", _cg1_phase1, CS2),
    memory_bytes=published(41e12, "B", "cg1-phase-1-memory", src.CG1),
    cpu_cores=published(36_352, "cores", "cg1-phase-1-cpu-cores", src.CG1),
    memoryx=MEMORYX_CS2,
    swarmx=_swarmx("cg1-phase-1", _cg1_phase1, CS2, published(194e12, "b/s", "cg1-phase-1-network", src.CG1)),
)
"""The first half of Condor Galaxy 1."""

CONDOR_GALAXY_1 = Cluster(
    name="Condor Galaxy 1",
    system=CS2,
    systems=CG1_SYSTEMS,
    cores=_printed_cores(published(54e6, "PEs", "cg1-cores", src.CG1), _cores("cg1", CG1_SYSTEMS, CS2)),
    peak_fp16_flops_per_s=_peak("cg1", CG1_SYSTEMS, CS2),
    sparse_fp16_flops_per_s=CG1_SPARSE,
    memory_bytes=published(82e12, "B", "cg1-memory", src.CG1),
    memoryx=MEMORYX_CS2,
    swarmx=_swarmx("cg1", CG1_SYSTEMS, CS2, published(388e12, "b/s", "cg1-network", src.CG1)),
)
"""64 CS-2, 2023."""

_alcf = published(4, "systems", "alcf-systems", src.ALCF)
_large_count = published(12, "nodes", "alcf-memoryx-large-count", src.ALCF)
_large_bytes = published(1128 * GIB, "B", "alcf-memoryx-large-memory", src.ALCF)
_small_count = published(12, "nodes", "alcf-memoryx-small-count", src.ALCF)
_small_bytes = published(183 * GIB, "B", "alcf-memoryx-small-memory", src.ALCF)

ALCF_CS3 = Cluster(
    name="ALCF CS-3",
    system=CS3,
    systems=_alcf,
    cores=_cores("alcf", _alcf, CS3),
    peak_fp16_flops_per_s=_peak("alcf", _alcf, CS3),
    memory_bytes=derive(
        "large_nodes * large + small_nodes * small",
        "B",
        "alcf-memory",
        src.HERE,
        {
            "large_nodes": _large_count,
            "large": _large_bytes,
            "small_nodes": _small_count,
            "small": _small_bytes,
        },
    ),
    nodes=(
        NodeGroup(role="MemoryX, large", count=_large_count, memory_bytes=_large_bytes),
        NodeGroup(role="MemoryX, small", count=_small_count, memory_bytes=_small_bytes),
        NodeGroup(role="SwarmX", count=published(8, "nodes", "alcf-swarmx-nodes", src.ALCF)),
        NodeGroup(role="worker", count=published(4, "nodes", "alcf-workers", src.ALCF)),
        NodeGroup(role="activation server", count=published(4, "nodes", "alcf-activation-servers", src.ALCF)),
    ),
    memoryx=MEMORYX_CS3,
    swarmx=_swarmx("alcf", _alcf, CS3),
)
"""The four CS-3 of the ALCF AI testbed: the cluster whose logs check the performance model."""

_max_cs2_systems = contested(
    published(192, "systems", "max-cs2-systems", src.MEMORYX_2021),
    published(256, "systems", "max-cs2-systems", src.XPU),
    reason="the vendor's own announcement",
)

MAX_CS2 = Cluster(
    name="Max CS-2",
    system=CS2,
    systems=_max_cs2_systems,
    cores=_cores("max-cs2", _max_cs2_systems, CS2),
    peak_fp16_flops_per_s=_peak("max-cs2", _max_cs2_systems, CS2),
    memory_bytes=_max_cs2,
    memoryx=MEMORYX_CS2,
    swarmx=_swarmx("max-cs2", _max_cs2_systems, CS2),
)
"""The largest CS-2 cluster that was announced."""

_max_cs3_systems = published(2048, "systems", "max-cs3-systems", f"{src.CS3_LAUNCH}; {src.TOMS}")

MAX_CS3 = Cluster(
    name="Max CS-3",
    system=CS3,
    systems=_max_cs3_systems,
    cores=_cores("max-cs3", _max_cs3_systems, CS3),
    peak_fp16_flops_per_s=_peak("max-cs3", _max_cs3_systems, CS3),
    memory_bytes=MEMORYX_CS3.sizes_bytes[-1],
    memoryx=MEMORYX_CS3,
    swarmx=_swarmx("max-cs3", _max_cs3_systems, CS3),
)
"""The largest CS-3 cluster that was announced."""
