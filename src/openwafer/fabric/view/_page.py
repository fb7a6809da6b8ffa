"""One self-contained page that shows a trace: the parts in `page/`, with the trace cut to what a browser takes easily."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openwafer.base import StorageError
from openwafer.fabric._trace import TraceKind
from openwafer.fabric._trace_file import Trace
from openwafer.fabric._trace_spans import KINDS, SPAN, make_spans, short_name
from openwafer.fabric._trace_summary import find_launches
from openwafer.fabric.view._states import binned, make_states


@dataclass(frozen=True, slots=True)
class PageLimits:
    """How much of each sort a page carries; an entry is 1 to 5 bytes of the file."""

    spans: int = 1_000_000
    segments: int = 4_000_000
    passages: int = 1_500_000


_SCRIPTS = ("data", "shown", "measure", "fabric", "timeline", "words", "input", "start")
"""Each uses what those before it define."""
_MOST_CELLS = 12_000_000  # PEs times bins, where time is put into bins


def write_page(trace: Trace, path: Path, title: str = "", limits: PageLimits | None = None) -> list[str]:
    """Write the page; gives what had to be cut, one sentence each, which the page says too.

    Raises StorageError if the file cannot be written.
    """
    document, cut = page_data(trace, title or path.stem, limits or PageLimits())
    # In a script element only `<` could end it.
    text = json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")
    try:
        path.write_text(_template().replace("/*DATA*/null", text), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; choose another file") from error
    return cut


def _template() -> str:
    """The page without data: its style and its scripts, which share one scope, put into the document."""
    folder = resources.files("openwafer.fabric.view").joinpath("page")

    def part(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8").rstrip("\n")

    page = part("page.html").replace("/*STYLE*/", part("page.css"))
    return page.replace("/*SCRIPT*/", "\n\n".join(part(f"{name}.js") for name in _SCRIPTS))


def page_data(trace: Trace, title: str, limits: PageLimits) -> tuple[dict[str, Any], list[str]]:
    """What the page's script reads, and what was cut."""
    cut: list[str] = []
    if trace.facts.dropped:
        cut.append(f"The trace was full: {trace.facts.dropped:,} later records are missing.")
    found = make_spans(trace)
    width, height = trace.facts.rectangle
    cycles = trace.cycles
    segments, states = make_states(found, width, cycles)
    bin_cycles = 1
    if segments.size > limits.segments:
        bin_cycles = max(2, -(-cycles * int(np.count_nonzero(trace.program_at >= 0)) // _MOST_CELLS))
        exact = segments
        segments = binned(exact, bin_cycles, len(states))
        while segments.size > limits.segments and bin_cycles < cycles:
            bin_cycles *= 2
            segments = binned(exact, bin_cycles, len(states))
        cut.append(f"States are those of {bin_cycles:,} cycles together: each PE shows what it did most.")
    spans = found.spans
    if spans.size > limits.spans:
        length = spans["end"] - spans["start"]
        shortest = int(np.partition(length, -limits.spans)[-limits.spans])
        spans = spans[length > shortest]
        cut.append(f"Timelines lack what took {shortest:,} cycles or less: {found.spans.size - spans.size:,} of "
                   f"{found.spans.size:,} spans.")  # fmt: skip
    passages, link_bin = _passages(trace, limits.passages, cut)
    document = {
        "title": title,
        "architecture": trace.facts.architecture,
        "timing": trace.facts.timing,
        "offset": trace.facts.offset,
        "width": width,
        "height": height,
        "cycles": cycles,
        "bin": bin_cycles,
        "linkBin": link_bin,
        "cut": cut,
        "launches": [[one.name, one.start, one.cycles, one.pes] for one in find_launches(found, width)],
        "spansCut": spans.size < found.spans.size,
        "programs": [short_name(program.name) for program in trace.facts.programs],
        "placed": _packed(np.where(trace.program_at < 0, 0xFFFF, trace.program_at).ravel(), "<u2"),
        "states": [[state.kind, state.text] for state in states],
        "names": [[KINDS.index(name.kind), name.text, name.place] for name in found.names],
        "segments": _segments(segments),
        "spans": _spans(spans, width),
        "passages": passages,
    }
    return document, cut


def _packed(values: ArrayLike, kind: str) -> str:
    """An array as base64 of zlib."""
    return base64.b64encode(zlib.compress(np.asarray(values).astype(kind).tobytes(), 9)).decode()


def _changes(values: NDArray[Any]) -> str:
    """A column that mostly grows, as differences: they compress better."""
    return _packed(np.diff(values.astype(np.int64), prepend=0), "<i4")


def _segments(segments: NDArray[Any]) -> dict[str, Any]:
    return {
        "count": int(segments.size),
        "place": _changes(segments["place"]),
        "start": _changes(segments["start"]),
        "length": _packed(segments["end"] - segments["start"], "<u4"),
        "state": _packed(segments["state"], "<u2"),
        "share": _packed(segments["share"], "u1"),
    }


def _spans(spans: NDArray[Any], width: int) -> dict[str, Any]:
    assert spans.dtype == SPAN
    return {
        "count": int(spans.size),
        "place": _changes(spans["y"].astype(np.int64) * width + spans["x"]),
        "start": _changes(spans["start"]),
        "length": _packed(spans["end"] - spans["start"], "<u4"),
        "thread": _packed(spans["thread"], "u1"),
        "name": _packed(spans["name"], "<u2"),
    }


def _passages(trace: Trace, most: int, cut: list[str]) -> tuple[dict[str, Any], int]:
    """Wavelets through routers by cycle; those alike in one bin of time as one with a count."""
    chosen = trace.records[trace.records["kind"] == TraceKind.PASSAGE]
    width = trace.facts.rectangle[0]
    cycle = chosen["cycle"].astype(np.int64)
    data, count = chosen["b"], np.ones(chosen.size, np.int64)
    bin_cycles = 1
    if chosen.size > most:
        place = chosen["y"].astype(np.int64) * width + chosen["x"]
        about = (
            (place << 16) | (chosen["a"].astype(np.int64) & 0x1F) << 8 | chosen["c"].astype(np.int64) & 0x1F
        )
        about |= (chosen["a"].astype(np.int64) >> 8) << 13
        known, about = np.unique(about, return_inverse=True)
        first, last = cycle, int(cycle[-1])
        while count.size > most and bin_cycles <= last - first[0]:
            bin_cycles = bin_cycles * 2 if bin_cycles > 1 else max(2, int(last - first[0]) // 4096)
            key, index, count = np.unique(
                first // bin_cycles * known.size + about, return_index=True, return_counts=True
            )
            chosen_now, cycle = index, key // known.size * bin_cycles
        chosen, data = chosen[chosen_now], np.zeros(0, np.uint32)
        cut.append(f"Wavelets are counted over {bin_cycles:,} cycles together, without their data.")
    document = {
        "count": int(chosen.size),
        "cycle": _changes(cycle),
        "place": _packed(chosen["y"].astype(np.int64) * width + chosen["x"], "<u4"),
        "color": _packed(chosen["a"] & 0xFF, "u1"),
        "from": _packed(chosen["a"] >> 8, "u1"),
        "sides": _packed(chosen["c"] & 0x1F, "u1"),
        "number": _packed(count, "<u4"),
        "data": _packed(data, "<u4"),
    }
    return document, bin_cycles
