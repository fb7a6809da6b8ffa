"""One story, told in more or less detail: `WAFER_LOG=1..4` (errors, the run, the roles, every message)."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    import structlog

_asked = threading.Event()
"""`configure_logs` was called, and nobody has made a logger yet."""
_LEVELS = {"1": logging.ERROR, "2": logging.INFO, "3": logging.DEBUG, "4": 5}


class _Lossy(io.TextIOBase):
    """Passes lines on, and drops those that find no room or a closed file: what logs must not stop for its log."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()


def configure_logs() -> None:
    """Set up structlog for this process from `WAFER_LOG` (default 1). Logs go to standard error."""
    if "structlog" in sys.modules:
        _configure()
    else:
        _asked.set()


def logger(role: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry the role that wrote them."""
    import structlog  # here and below: importing it takes longer than many commands do

    if _asked.is_set():
        _asked.clear()
        _configure()
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(role=role)
    return bound


def _configure() -> None:
    import structlog

    level = _LEVELS.get(os.environ.get("WAFER_LOG", "1"), logging.ERROR)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Lossy(sys.stderr))),
        cache_logger_on_first_use=False,
    )
