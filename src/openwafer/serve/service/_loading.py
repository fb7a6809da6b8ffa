"""How far the loading of a model has come, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from openwafer.serve.model import Progress as Report


@contextmanager
def show_loading(console: Console, model: str) -> Iterator[Report]:
    """Give the function that `open_executor` reports to; a bar with rate and time left, which goes at the end."""
    bar = Progress(
        TextColumn("loading {task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(model, total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report
