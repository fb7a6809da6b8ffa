"""A stage for a pipeline, whose layers hang when it is told to. A process of its own imports this by its name."""

from __future__ import annotations

import signal
import time

from openwafer.serve.executors._stage_process import run_stage as run_real_stage
from openwafer.serve.executors._stages import StageStart
from openwafer.serve.model import Layer
from openwafer.wire import Endpoints

LAYER_S = 0.2


def run_stage(start: StageStart, ends: Endpoints) -> None:
    """A stage whose layers never end once its process gets SIGUSR1."""
    signal.signal(signal.SIGUSR1, lambda *_: setattr(Layer, "__call__", lambda *_: time.sleep(600)))
    run_real_stage(start, ends)
