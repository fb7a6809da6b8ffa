"""The executor at work, and another one when it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from openwafer.base import logger
from openwafer.serve.engine._statistics import Meter
from openwafer.serve.executors import Executor

_FAILURES_IN_A_ROW = 3


@final
class Supply:
    """Opens executors one after another, and gives up when there is no sense in going on."""

    def __init__(self, executor: Executor, reopen: Callable[[], Executor] | None, meter: Meter) -> None:
        self.executor = executor
        self._reopen = reopen
        self._meter = meter
        self._failures = 0
        self._log = logger("engine")

    def worked(self) -> None:
        """The executor has done a batch."""
        self._failures = 0

    def replace(self, error: Exception) -> str:
        """Open another executor in the place of the one that failed; why not, if that cannot be."""
        self._failures += 1
        self.executor.close()
        if self._reopen is None:
            return f"the model's executor failed: {error}; start the server again"
        if self._failures > _FAILURES_IN_A_ROW:
            return (
                f"the model's executor failed {self._failures} times in a row: {error}; see the server's log"
            )
        try:
            self.executor = self._reopen()
        except Exception as again:
            return f"the model's executor failed ({error}) and could not be opened again: {again}"
        self._meter.add("restarts")
        self._log.info("the executor was opened again", blocks=self.executor.blocks)
        return ""
