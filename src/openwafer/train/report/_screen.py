"""The terminal: lines that stay, and below them one bar that moves."""

from __future__ import annotations

from typing import final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn


@final
class Screen:
    """Prints whole lines; on a terminal, also a progress bar under them until `close`."""

    def __init__(self, console: Console, total_steps: int, start_step: int) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal and not console.is_dumb_terminal and not console.quiet:
            self._progress = Progress(
                TextColumn("train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                console=console,
                refresh_per_second=4,
                transient=True,
            )
            self._task = self._progress.add_task("train", total=total_steps, completed=start_step, status="")
            self._progress.start()

    def line(self, text: str) -> None:
        """Print one line as it is: no markup, no colours, no wrapping in the middle of a number."""
        try:
            self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        except SystemExit as error:
            # rich ends the process when the reader of a pipe has gone (`... | head`); training goes on.
            raise BrokenPipeError("nobody reads the console any more") from error

    def progress(self, step: int, status: str) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step, status=status)

    @property
    def shows_progress(self) -> bool:
        """Whether there is a bar."""
        return self._progress is not None

    def close(self) -> None:
        """Remove the bar and give the cursor back. Closing twice is harmless."""
        if self._progress is not None:
            progress, self._progress = self._progress, None
            progress.stop()
