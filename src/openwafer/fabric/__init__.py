"""The fabric: a cycle-level simulator of PEs and routers that runs Images.

`Machine` loads an Image and runs it; `load_timing` gives the table of what everything costs. The core is native
(`native/`); it knows Images and not CSL.
"""

from openwafer.fabric._code import LoadedCode
from openwafer.fabric._machine import Machine, Outcome
from openwafer.fabric._timing import Grade, Profile, Timing, TimingValue, load_timing
from openwafer.fabric._trace import TRACE_RECORD, TraceKind, read_trace

__all__ = [
    "TRACE_RECORD",
    "Grade",
    "LoadedCode",
    "Machine",
    "Outcome",
    "Profile",
    "Timing",
    "TimingValue",
    "TraceKind",
    "load_timing",
    "read_trace",
]
