"""CSL, the language of kernels for the wafer: by now its syntax, and how its errors are told."""

from openwafer.csl._diagnostics import Diagnostic, DiagnosticError, Note, render, render_all
from openwafer.csl._source import Source, Span

__all__ = ["Diagnostic", "DiagnosticError", "Note", "Source", "Span", "render", "render_all"]
