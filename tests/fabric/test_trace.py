"""Traces: what is recorded, the file, spans, sums, and the forms that they are exported to."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fabric_programs import EASTWARD, Code, Pe, dsd, fabin, fabout, machine, main_task, mem, program
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.artifact import _image as image
from openwafer.base import InputError, StorageError
from openwafer.fabric import (
    TRACE_RECORD,
    Lack,
    Machine,
    Trace,
    TraceFacts,
    TraceKind,
    TraceOptions,
    describe_time,
    finish_trace,
    load_trace,
    make_spans,
    summarise_trace,
    watch_machine,
    write_trace,
)
from openwafer.fabric.view import text_lines, write_chrome
from openwafer.fabric.view._page import PageLimits, page_data
from openwafer.fabric.view._states import binned, make_states


def pair(count: int = 40, *, late: int = 0) -> Machine:
    """The first PE sends `count` words on color 1; the second adds up its memory, then takes them."""

    def send(pe: Pe) -> Iterator[None]:
        pe.spend(late)
        yield from pe.vector("mov32", dsd(fabout(2, count, 1)), dsd(mem(0, count)), location=1)

    def take(pe: Pe) -> Iterator[None]:
        yield from pe.vector("mov32", dsd(mem(0, count)), dsd(fabin(3, count, 1)), location=1)

    code = Code()
    both: list[dict[str, Any]] = [
        {"queues": (image.Queue("output", 2, 1),)},
        {"queues": (image.Queue("input", 3, 1),)},
    ]
    programs = [
        program(code.add(entry), tasks=(main_task(),), **more)
        for entry, more in zip((send, take), both, strict=True)
    ]
    return machine(code, programs, routes=EASTWARD)


@pytest.fixture
def traced() -> Trace:
    """A whole trace of `pair`, in which the sender begins late."""
    loaded = pair(late=100)
    loaded.set_trace(wavelets=True, passages=True)
    loaded.run()
    return loaded.full_trace()


def test_tracing_changes_no_cycle() -> None:
    """A trace would be worth little if the machine behaved otherwise while it is watched; passages turn trains off."""
    plain, watched = pair(), pair()
    watched.set_trace(wavelets=True, passages=True)

    for one in (plain, watched):
        one.run()

    assert plain.cycle == watched.cycle
    assert plain.statistics(1, 0) == watched.statistics(1, 0)
    assert plain.trace().size == 0


def test_a_wait_has_its_reason_and_its_length(traced: Trace) -> None:
    """The receiver waits for color 1 until the late sender's first word is there; then a word comes each cycle."""
    waits = traced.records[(traced.records["kind"] == TraceKind.WAIT) & (traced.records["x"] == 1)]

    assert (waits["a"] >> 4 & 15 == Lack.INPUT).all()
    assert (waits["a"] >> 8 == 1).all()
    first = traced.records[traced.records["kind"] == TraceKind.WAVELET_IN]["cycle"][0]
    assert int(waits["cycle"][0] + waits["c"][0]) - int(first) in range(0, 8)
    assert int(waits["c"][0]) > 90


def test_a_wait_that_does_not_end_is_in_the_trace() -> None:
    """A program that stalls is when one looks at the trace: the wait lasts until now, also when asked twice."""
    loaded = pair(late=1_000_000)
    loaded.set_trace()
    loaded.run(5000)

    sizes = [loaded.trace().size for _ in range(2)]
    last = loaded.trace()[loaded.trace()["kind"] == TraceKind.WAIT][-1]

    assert sizes[0] == sizes[1]
    assert int(last["cycle"] + last["c"]) == loaded.cycle


def test_every_word_passes_each_router_once(traced: Trace) -> None:
    """From the ramp to the east, then from the west to the ramp; the words are told too."""
    passages = traced.records[traced.records["kind"] == TraceKind.PASSAGE]

    by_router = [passages[passages["x"] == x] for x in range(2)]
    assert [one.size for one in by_router] == [40, 40]
    assert set(by_router[0]["a"].tolist()) == {1 | 4 << 8}
    assert set(by_router[0]["c"].tolist()) == {1 << 1}
    assert set(by_router[1]["a"].tolist()) == {1 | 0 << 8}
    assert set(by_router[1]["c"].tolist()) == {1 << 4}


def test_a_full_trace_says_how_much_is_missing() -> None:
    """A long run must not fill the memory: beyond the limit records are counted and no longer kept."""
    whole, short = pair(), pair()
    whole.set_trace()
    short.set_trace(limit=3)
    for one in (whole, short):
        one.run()

    kept = short.full_trace()
    all_records = whole.full_trace()

    assert kept.records.size == 3
    assert kept.facts.dropped == all_records.records.size - 3
    assert "full" in page_data(kept, "x", PageLimits())[1][0]


@settings(max_examples=30, deadline=None)
@given(
    cycles=st.lists(st.integers(0, 2**40), max_size=30),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_file_gives_back_what_was_written(
    cycles: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every field of every record, whatever it holds."""
    random = np.random.default_rng(seed)
    records = np.frombuffer(random.bytes(len(cycles) * TRACE_RECORD.itemsize), TRACE_RECORD).copy()
    records["cycle"] = np.sort(np.array(cycles, np.uint64))
    written = Trace(pair().full_trace().facts, records)
    path = tmp_path_factory.mktemp("trace") / "a.trace"

    write_trace(written, path)
    read = load_trace(path)

    assert read.facts == written.facts
    assert (read.records == records).all()


def test_a_file_that_is_no_trace_is_refused(traced: Trace, tmp_path: Path) -> None:
    """Each with what is wrong and what to do: no file, another file, half a file."""
    whole, half, other = tmp_path / "whole", tmp_path / "half", tmp_path / "other"
    write_trace(traced, whole)
    half.write_bytes(whole.read_bytes()[:-9])
    other.write_bytes(b"PK")

    with pytest.raises(InputError, match=r"cannot be read: No such file.*--trace"):
        load_trace(tmp_path / "none")
    with pytest.raises(InputError, match="is no trace"):
        load_trace(other)
    with pytest.raises(InputError, match="is damaged"):
        load_trace(half)
    head = msgspec.msgpack.encode({"architecture": "wse3"})
    other.write_bytes(b"OWTRACE1" + struct.pack("<I", len(head)) + head)
    with pytest.raises(InputError, match="written by another version of openwafer"):
        load_trace(other)
    with pytest.raises(StorageError, match="cannot be written"):
        write_trace(traced, tmp_path / "no" / "folder")


def test_spans_have_names_and_source_lines(traced: Trace) -> None:
    """A task by its name, an operation by its builtin and line, a wait by what it lacks."""
    found = make_spans(traced)

    texts = {str(found.names[name]) for name in found.spans["name"]}
    assert {"main (program.csl)", "@mov32 (program.csl:7:3)"} <= texts
    assert "@mov32 waits for a wavelet of color 1 (program.csl:7:3)" in texts
    assert (found.spans["end"] >= found.spans["start"]).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 30), st.integers(1, 30)), max_size=20))
def test_starts_and_ends_are_paired(steps: list[tuple[int, int, int]]) -> None:
    """On each PE the n-th start has the n-th end, also if the next task starts before an end is due; the last may be open."""
    facts = pair().full_trace().facts
    made, expected, clock = [], [], [0, 0]
    for x, gap, length in steps:
        start = clock[x] + gap
        made += [
            (start, x, 0, TraceKind.TASK_START, 8, 0, 0),
            (start + length, x, 0, TraceKind.TASK_END, 8, 0, 0),
        ]
        expected.append((x, start, start + length))
        clock[x] = start + length // 2
    # Ends come in order, as the machine's do.
    ends = sorted((row[1], row[0]) for row in made if row[3] == TraceKind.TASK_END)
    assert len(ends) == len(steps)
    records = np.array(sorted(made, key=lambda row: row[0]), TRACE_RECORD)

    spans = make_spans(Trace(facts, records)).spans

    for x in range(2):
        starts = sorted(start for place, start, _ in expected if place == x)
        until = sorted(end for place, _, end in expected if place == x)
        mine = spans[spans["x"] == x]
        assert mine["start"].tolist() == starts
        assert mine["end"].tolist() == until


def test_the_sums_are_the_whole_time(traced: Trace) -> None:
    """Busy, waiting and idle cycles of a main thread are all there are."""
    summary = summarise_trace(traced)

    assert [(one.x, one.tasks) for one in summary.pes] == [(0, 1), (1, 1)]
    for one in summary.pes:
        assert one.busy + one.waiting + one.idle == summary.cycles
    assert summary.pes[1].waiting > 90
    assert summary.pes[0].waiting < 90


def test_waits_are_added_up_by_their_reason(traced: Trace) -> None:
    """What the fabric waited for most stands first, with its source line; the table tells it and the shares of all PEs."""
    summary = summarise_trace(traced)

    assert summary.waits[0].text == "@mov32 waits for a wavelet of color 1 (program.csl:7:3)"
    assert summary.waits[0].cycles == summary.pes[1].waiting
    assert summary.waits[0].pes == 1
    told = describe_time(summary)
    busy, waiting, idle = (float(n) for n in re.findall(r"(\d+\.\d) %", told))
    assert abs(busy + waiting + idle - 100) < 0.2
    assert (
        f"{summary.waits[0].cycles:,} cycles in {summary.waits[0].waits:,} on 1 PE: @mov32 waits for" in told
    )


def test_launches_are_timed() -> None:
    """Each launch from its first PE's begin to the end of the last PE; another one begins another."""

    def work(pe: Pe) -> None:
        pe.spend(50)
        pe.call("ow_unblock_commands")

    code = Code()
    entry = code.add(work)
    made = program(entry, functions={"compute": 0})
    loaded = machine(code, [made, made])
    loaded.set_trace()
    for _ in range(3):
        for x in range(2):
            loaded.launch(x, 0, 0)
        loaded.run()

    launches = summarise_trace(loaded.full_trace()).launches

    assert [(one.name, one.pes) for one in launches] == [("compute", 2)] * 3
    assert all(50 <= one.cycles < 70 for one in launches)


def test_states_follow_the_main_thread(traced: Trace) -> None:
    """At each cycle at most one state; waits are cut out of their task."""
    segments, states = make_states(make_spans(traced), 2, traced.cycles)

    for place in range(2):
        mine = segments[segments["place"] == place]
        assert (mine["start"][1:] >= mine["end"][:-1]).all()
    summary = summarise_trace(traced)
    kinds = np.array([state.kind for state in states])[segments["state"]]
    length = segments["end"] - segments["start"]
    for one in summary.pes:
        mine = segments["place"] == one.x
        assert length[mine & (kinds == "task")].sum() == one.busy
        assert length[mine & np.isin(kinds, ("wait", "send", "other"))].sum() == one.waiting


def test_bins_keep_the_time_that_was_not_idle(traced: Trace) -> None:
    """By bins the page shows the state with most of the time, and a share of all that was not idle, in sixteenths."""
    segments, states = make_states(make_spans(traced), 2, traced.cycles)

    coarse = binned(segments, 16, len(states))

    exact = (segments["end"] - segments["start"]).sum()
    shown = ((coarse["end"] - coarse["start"]) * ((coarse["share"].astype(int) + 1) / 256)).sum()
    assert exact <= shown <= exact + 32
    assert (coarse["start"] % 16 == 0).all()


def test_a_page_says_what_it_cut(traced: Trace) -> None:
    """A big trace is put into bins; counts of wavelets stay whole."""
    whole, nothing = page_data(traced, "x", PageLimits())
    small, cut = page_data(traced, "x", PageLimits(spans=2, segments=3, passages=5))

    assert nothing == []
    assert whole["passages"]["count"] == 80
    assert len(cut) == 3
    assert small["bin"] > 1
    assert small["linkBin"] > 1
    assert small["spans"]["count"] <= 2


def test_chrome_gets_rows_and_events(traced: Trace, tmp_path: Path) -> None:
    """Valid JSON; a process for each PE, a named row for each thread, a complete event for each span with its source."""
    write_chrome(traced, tmp_path / "out.json")

    events = json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    spans = make_spans(traced).spans
    complete = [event for event in events if event["ph"] == "X"]
    rows = {(e["pid"], e["args"]["name"]) for e in events if e["name"] == "thread_name"}
    assert len(complete) == spans.size
    assert rows == {(0, "main thread"), (1, "main thread")}
    assert {"program.csl:7:3", "program.csl"} <= {event["args"]["source"] for event in complete}


def test_text_lines_have_the_grammar_of_existing_logs(traced: Trace) -> None:
    """By cycle; a landing and a wavelet line for each word at each router, in coordinates of the fabric."""
    lines = list(text_lines(traced))

    cycles = [int(line[1:].split()[0]) for line in lines]
    assert cycles == sorted(cycles)
    landing = r"@\d+ P2\.1 \(hwtile\) landing C1 from link W"
    assert sum(re.fullmatch(landing, line) is not None for line in lines) == 40
    wavelet = (
        r"@\d+ P\d+\.\d+ \(hwtile\) wavelet C1 ctrl=0, idx=[0-9a-f]{4}, data=[0-9a-f]{4} \(\d+\), half=0, "
    )
    wavelet += r"ident=[0-9a-f]{8} landing=[RW] departing=/[ER]/"
    assert sum(re.fullmatch(wavelet, line) is not None for line in lines) == 80
    assert any("[IS OP] ^ program.csl:7:3: T08 MOV32" in line for line in lines)


def test_the_environment_asks_for_traces(tmp_path: Path) -> None:
    """Words of SIMFABRIC_DEBUG that only other simulators know do nothing; each machine of a process has its own file."""
    none = TraceOptions.from_environment({"SIMFABRIC_DEBUG": "router_stats"})
    some = TraceOptions.from_environment({"SIMFABRIC_DEBUG": "inst_trace,landing", "WAFER_TRACE": "a.trace"})
    assert not none.any
    assert some.instructions
    assert some.landings
    assert some.wavelets

    options = TraceOptions(file=tmp_path / "a.trace", landings=True, log=tmp_path / "sim.log")
    for _ in range(2):
        loaded = pair(3)
        watch_machine(loaded, options)
        loaded.run()
        finish_trace(loaded)
        finish_trace(loaded)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-2.trace", "a.trace", "sim.log"]
    assert (load_trace(tmp_path / "a.trace").records == load_trace(tmp_path / "a-2.trace").records).all()
    assert (tmp_path / "sim.log").read_text().count("landing C1") == 12


def test_facts_name_tasks_and_functions() -> None:
    """An entry is called as the task or the exported function is, and not as the compiler calls it."""
    code = Code()
    made = program(code.add(lambda pe: None), tasks=(main_task(),))
    facts = TraceFacts.of(machine(code, [made]).image, "sim", 0, 0)

    assert facts.programs[0].entries[0] == "main"


def test_a_task_has_the_place_where_it_is_declared() -> None:
    """As operations have: a viewer leads from what ran to its source."""
    code = Code()
    made = program(code.add(lambda pe: None), tasks=(main_task(),))
    code.codes[0] = msgspec.structs.replace(code.codes[0], places=(2,))
    loaded = machine(code, [made])
    loaded.set_trace()
    loaded.run()

    found = make_spans(loaded.full_trace())

    assert [str(name) for name in found.names] == ["main (program.csl:9:5)"]
