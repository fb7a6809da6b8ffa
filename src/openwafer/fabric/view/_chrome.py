"""A trace in Chrome's trace event format, which chrome://tracing and Perfetto show: a process for each PE, a row for each
thread. A cycle is shown as a microsecond."""

from __future__ import annotations

import json
from pathlib import Path

from openwafer.base import StorageError
from openwafer.fabric._trace import MAIN_THREAD
from openwafer.fabric._trace_file import Trace
from openwafer.fabric._trace_spans import KINDS, make_spans, short_name


def write_chrome(trace: Trace, path: Path) -> None:
    """Write complete events of tasks, operations and waits. Raises StorageError if the file cannot be written."""
    found = make_spans(trace)
    width = trace.facts.rectangle[0]
    places = {
        (int(span["x"]), int(span["y"]), int(span["thread"])) for span in found.spans[["x", "y", "thread"]]
    }
    names = [json.dumps(name.text) for name in found.names]
    sources = [json.dumps(name.place) for name in found.names]
    try:
        with path.open("w", encoding="utf-8") as file:
            facts = {
                "architecture": trace.facts.architecture,
                "timing": trace.facts.timing,
                "unit": "1 us is 1 cycle",
            }
            file.write(f'{{"otherData":{json.dumps(facts)},"traceEvents":[\n')
            parts = []
            for x, y in sorted({place[:2] for place in places}):
                program = short_name(trace.facts.programs[int(trace.program_at[y, x])].name)
                parts.append(_meta("process_name", y * width + x, 0, name=f"PE ({x}, {y}) {program}"))
                parts.append(_meta("process_sort_index", y * width + x, 0, sort_index=y * width + x))
            for x, y, thread in sorted(places):
                # The main thread comes first.
                row = 0 if thread == MAIN_THREAD else thread + 1
                name = "main thread" if thread == MAIN_THREAD else f"microthread {thread}"
                parts.append(_meta("thread_name", y * width + x, row, name=name))
            for x, y, thread, kind, name, start, end in found.spans.tolist():
                row = 0 if thread == MAIN_THREAD else thread + 1
                parts.append(
                    f'{{"ph":"X","pid":{y * width + x},"tid":{row},"ts":{start},"dur":{end - start},'
                    f'"name":{names[name]},"cat":"{KINDS[kind]}","args":{{"source":{sources[name]}}}}}'
                )
            file.write(",\n".join(parts) + "\n]}\n")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; choose another file") from error


def _meta(kind: str, process: int, thread: int, **arguments: object) -> str:
    return json.dumps({"ph": "M", "name": kind, "pid": process, "tid": thread, "args": arguments})
