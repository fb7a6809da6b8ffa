"""TensorBoard scalars, written by the step that reports them.

The writers of torch and of tensorboard hand events to a thread, where a full disk is met by nobody. One
event a step is little enough to write at once, so errors come back to the caller and nothing waits for a
flush.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import final

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from openwafer.train.report._files import AppendFile


@final
class ScalarWriter:
    """One event file in `folder`. Raises OSError where the disk refuses.

    purge_step: if given, TensorBoard forgets what earlier event files of the folder say about this step and
    later ones; a resumed run passes its first step.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._records = RecordWriter(AppendFile(folder / _file_name(folder)))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            self.purge(purge_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values, keyed by tag, for one step."""
        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()]
        )
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def purge(self, step: int) -> None:
        """Make TensorBoard forget every earlier event of `step` and of later steps."""
        self._write(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def close(self) -> None:
        """Closing twice is harmless."""
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


def _file_name(folder: Path) -> str:
    """A name that sorts after every event file of the folder: TensorBoard reads them in that order."""
    second = int(time.time())
    for path in folder.glob("events.out.tfevents.*"):
        stamp = path.name.split(".")[3]
        if stamp.isdigit():
            second = max(second, int(stamp) + 1)
    return f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
