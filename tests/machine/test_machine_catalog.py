"""The machines: their numbers agree with the arithmetic of the sources, and contradictions are kept."""

from __future__ import annotations

import dataclasses

import pytest

from openwafer.base import InputError
from openwafer.machine import (
    ALCF_CS3,
    ANDROMEDA,
    CONDOR_GALAXY_1,
    CONDOR_GALAXY_1_PHASE_1,
    CS2,
    CS3,
    MACHINES,
    MAX_CS2,
    MAX_CS3,
    MEMORYX_CS2,
    MEMORYX_CS3,
    WSE1,
    WSE2,
    WSE3,
    Contested,
    Fact,
    Grade,
    Machine,
    Wafer,
    facts_of,
    find_machine,
    part_of,
    quantities_of,
)

KIB = 1024


def _values(fact: Fact) -> list[float]:
    return [fact.value, *(other.value for other in fact.alternatives)]


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (WSE1.pes, 633 * 633),
        (WSE2.pes, 757 * 996),
        (WSE3.pes, 762 * 1172),
        (WSE2.usable.width, 757 - 7),
        (WSE2.usable.height, 996 - 2),
        (WSE2.usable_pes, 750 * 994),
        (WSE3.usable_pes, 755 * 1170),
        (WSE2.sram_bytes, 757 * 996 * 48 * KIB),
        (WSE3.sram_bytes, 762 * 1172 * 48 * KIB),
        (WSE2.pe.memory_bytes_per_cycle, 24),
        (WSE2.pe.sram_bank_bytes, 6 * KIB),
        (WSE2.link.message_bits, 38),
        (WSE2.peak_fp16_flops_per_s, 120e15 / 16),
        (WSE3.peak_fp16_flops_per_s, 762 * 1172 * 8 * 2 * 1.1e9),
        (WSE2.sparse_fp16_flops_per_s, 62.5e15),
        (CS2.io_bits_per_s, 1.2e12),
        (CS3.io_bytes_per_s, 150e9),
        (CONDOR_GALAXY_1.peak_fp16_flops_per_s, 64 * 7.5e15),
        (MAX_CS3.cores, 2048 * 900_000),
        (MAX_CS2.systems, 192),
        (ALCF_CS3.memory_bytes, 12 * (1128 + 183) * KIB**3),
        (MEMORYX_CS2.bytes_per_parameter, 20),
        (ANDROMEDA.swarmx.scaling_overhead, (16 / 15.3 - 1) / 15),
    ],
)
def test_the_default_equals_the_arithmetic_written_out_by_hand(fact: Fact, expected: float) -> None:
    """The formulas live in the data; here the same numbers are computed from the sources' figures."""
    assert fact.value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (WSE2.pes, {850_000}),
        (WSE3.pes, {900_000}),
        (WSE2.fabric.width, {757, 750}),
        (WSE2.fabric.height, {996, 994}),
        (WSE3.fabric.height, {1172, 1176}),
        (WSE2.clock.default_hz, {850e6, 1.1e9}),
        (WSE3.clock.default_hz, {850e6, 875e6, 1.1e9}),
        (WSE2.link.hop_cycles, {1, 2}),
        (WSE3.link.hop_cycles, {1, 2}),
        (WSE2.pe.ramp_cycles, {2, 5}),
        (WSE2.on_chip_bytes_per_s, {20e15, 753_972 * 24 * 1.1e9}),
        (WSE3.on_chip_bytes_per_s, {21e15, 24e15, 25e15, 893_064 * 24 * 1.1e9}),
        (WSE2.fabric_bits_per_s, {220e15, 224e15, 753_972 * 4 * 2 * 32 * 1.1e9}),
        (WSE3.fabric_bits_per_s, {214e15, 245e15}),
        (WSE2.sram_bytes, {40e9, 850_000 * 48_000, 850_000 * 48 * KIB}),
        (WSE3.sram_bytes, {44e9}),
        (WSE2.peak_fp16_flops_per_s, {850_000 * 8 * 1.1e9, 753_972 * 8 * 1.1e9}),
        (ANDROMEDA.cores, {13.5e6, 13.6e6}),
        (MAX_CS2.systems, {192, 256}),
    ],
)
def test_values_that_contradict_each_other_are_all_kept(fact: Fact, expected: set[float]) -> None:
    """A default hides a choice; the other values stay reachable with their own grade and source."""
    assert isinstance(fact, Contested)
    assert expected <= set(_values(fact))


def test_hops_take_one_cycle_on_the_wse2_and_two_on_the_wse3() -> None:
    """The measurements on silicon differ by generation: docs/facts.md#contradictions."""
    assert (int(WSE2.link.hop_cycles), int(WSE3.link.hop_cycles)) == (1, 2)
    assert WSE3.link.hop_cycles.grade is Grade.MEASURED


@pytest.mark.parametrize("wafer", [WSE2, WSE3], ids=lambda wafer: wafer.name)
def test_seconds_use_the_compilers_clock(wafer: Wafer) -> None:
    """The vendor's peak clock would promise times that no program reached."""
    assert wafer.clock.default_hz.recommended == wafer.clock.compiler_hz
    assert wafer.clock.vendor_peak_hz in wafer.clock.default_hz.alternatives


@pytest.mark.parametrize("wafer", [WSE1, WSE2, WSE3], ids=lambda wafer: wafer.name)
def test_the_default_capacity_is_the_smallest_of_its_sources(wafer: Wafer) -> None:
    """A plan that fits the smallest fits the machine, whichever source is right."""
    assert wafer.sram_bytes.value == min(_values(wafer.sram_bytes))
    assert wafer.usable_pes.value <= wafer.pes.value


@pytest.mark.parametrize("wafer", [WSE2, WSE3], ids=lambda wafer: wafer.name)
def test_wafer_wide_rates_come_within_four_percent_of_their_parts(wafer: Wafer) -> None:
    """The recommended rate is the one that PEs, ports and the vendor's clock reproduce."""
    pes, clock = float(wafer.pes), float(wafer.clock.vendor_peak_hz)

    assert float(wafer.on_chip_bytes_per_s) == pytest.approx(pes * 24 * clock, rel=0.04)
    assert float(wafer.fabric_bits_per_s) == pytest.approx(pes * 8 * 32 * clock, rel=0.04)


def test_two_phases_make_condor_galaxy_1() -> None:
    """The announcement gives both, so each checks the other."""
    one, two = CONDOR_GALAXY_1_PHASE_1, CONDOR_GALAXY_1
    assert one.memory_bytes is not None
    assert two.memory_bytes is not None

    assert 2 * int(one.systems) == int(two.systems)
    assert 2 * int(one.memory_bytes) == int(two.memory_bytes)
    assert 2 * one.swarmx.network_bits_per_s.alternatives[0].value == (
        two.swarmx.network_bits_per_s.alternatives[0].value
    )


def test_memoryx_sizes_rise() -> None:
    """Callers take the first size that holds a model."""
    for memoryx in (MEMORYX_CS2, MEMORYX_CS3):
        sizes = [float(size) for size in memoryx.sizes_bytes]
        assert sizes == sorted(sizes)


@pytest.mark.parametrize("text", ["taken from", "remembered", "inferred"])
def test_what_rests_on_memory_or_inference_is_assumed(text: str) -> None:
    """A source that says so cannot carry a better grade."""
    found = [
        quantity
        for machine in MACHINES.values()
        for _, fact in facts_of(machine)
        for quantity in quantities_of(fact)
        if text in quantity.source and not quantity.formula
    ]

    assert found
    assert {quantity.grade for quantity in found} == {Grade.ASSUMED}


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_machines_are_frozen_and_their_units_stand_in_the_field_names(machine: Machine) -> None:
    """A caller reads the unit off the name: `_bytes` is B, `_hz` is Hz, `_cycles` is cycles."""
    units = {
        "_bytes": "B", "_hz": "Hz", "_watts": "W", "_cycles": "cycles", "_flops_per_s": "FLOP/s",
        "_bits_per_s": "b/s", "_bytes_per_s": "B/s",
    }  # fmt: skip
    checked = 0
    for path, fact in facts_of(machine):
        name = path.split("[")[0] if path.endswith("]") else path
        for suffix, unit in units.items():
            if name.endswith(suffix):
                assert fact.unit == unit, path
                checked += 1
    assert checked
    with pytest.raises(dataclasses.FrozenInstanceError):
        machine.name = "other"  # type: ignore[misc]


def test_a_system_holds_its_wafer_and_a_cluster_its_system() -> None:
    """`part_of` walks inwards, and `facts_of` gives each level its own numbers only."""
    assert part_of(MAX_CS3) is CS3
    assert part_of(CS3) is WSE3
    assert part_of(WSE3) is None
    assert not any(path.startswith("wafer") for path, _ in facts_of(CS3))
    assert "pe.sram_bytes" in dict(facts_of(WSE3))
    assert "nodes[worker].count" in dict(facts_of(ALCF_CS3))


@pytest.mark.parametrize("name", ["WSE-3", "wse3", "WSE_3", "wse 3"])
def test_machines_are_found_however_the_name_is_typed(name: str) -> None:
    """Nobody should have to remember where the hyphen goes."""
    assert find_machine(name) is WSE3


def test_an_unknown_name_lists_the_known_ones_and_suggests_the_nearest() -> None:
    """The error is where a user learns what exists."""
    with pytest.raises(InputError, match="did you mean 'Andromeda'") as error:
        find_machine("andromedia")
    assert all(name in str(error.value) for name in MACHINES)

    with pytest.raises(InputError, match="there is no machine 'qqqq': openwafer knows"):
        find_machine("qqqq")
