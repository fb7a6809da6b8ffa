"""CSL, the language of kernels for the wafer: from a file's text to the Image that a fabric runs, and how errors are told."""

from openwafer.csl._compile import compile_program, compile_unit
from openwafer.csl._diagnostics import Diagnostic, DiagnosticError, Note, render, render_all
from openwafer.csl._source import Source, Span

__all__ = [
    "Diagnostic",
    "DiagnosticError",
    "Note",
    "Source",
    "Span",
    "compile_program",
    "compile_unit",
    "render",
    "render_all",
]
