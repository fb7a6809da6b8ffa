"""The fabric: a cycle-level simulator of PEs and routers that runs Images.

`Machine` loads an Image and runs it; `load_timing` gives the table of what everything costs. `Trace` is what a machine
recorded, `summarise_trace` says where the cycles went, and `fabric.view` shows it. The core is native (`native/`); it
knows Images and not CSL.
"""

from openwafer.fabric._code import LoadedCode
from openwafer.fabric._machine import Machine, Outcome
from openwafer.fabric._report import ImageReport, ProgramReport, report_image
from openwafer.fabric._timing import Grade, Profile, Timing, TimingValue, load_timing
from openwafer.fabric._trace import TRACE_RECORD, Lack, TraceKind, read_trace
from openwafer.fabric._trace_file import ProgramFacts, Trace, TraceFacts, load_trace, write_trace
from openwafer.fabric._trace_options import TraceOptions, finish_trace, watch_machine
from openwafer.fabric._trace_spans import SPAN, SpanName, Spans, make_spans
from openwafer.fabric._trace_summary import (
    LaunchTime,
    PeTime,
    TimeSummary,
    WaitTime,
    describe_time,
    summarise_trace,
)

__all__ = [
    "SPAN",
    "TRACE_RECORD",
    "Grade",
    "ImageReport",
    "Lack",
    "LaunchTime",
    "LoadedCode",
    "Machine",
    "Outcome",
    "PeTime",
    "Profile",
    "ProgramFacts",
    "ProgramReport",
    "SpanName",
    "Spans",
    "TimeSummary",
    "Timing",
    "TimingValue",
    "Trace",
    "TraceFacts",
    "TraceKind",
    "TraceOptions",
    "WaitTime",
    "describe_time",
    "finish_trace",
    "load_timing",
    "load_trace",
    "make_spans",
    "read_trace",
    "report_image",
    "summarise_trace",
    "watch_machine",
    "write_trace",
]
