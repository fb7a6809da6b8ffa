"""What a start's end means for its job: the rules, apart from what carries them out."""

from __future__ import annotations

import signal
from typing import Literal, NamedTuple

from openwafer.appliance._engine import Outcome
from openwafer.appliance._folder import Event
from openwafer.appliance._job import Ending, Job

TRY_AGAIN = 75
"""The exit status (EX_TEMPFAIL) by which a job's process says that another start may succeed."""


class Result(NamedTuple):
    """How the job's process itself says that it ended."""

    state: Ending
    message: str


class End(NamedTuple):
    """What comes next."""

    state: Ending | Literal["queued"]
    reason: str
    restarts: int


def result_of(event: Event) -> Result:
    """What a `result` event says; a status that is none counts as failed."""
    status = event.get("status")
    state: Ending = status if status in ("succeeded", "failed", "cancelled") else "failed"
    return Result(state, str(event.get("message", "")))


def settle(job: Job, outcome: Outcome, result: Result | None, newest: str, last_line: str) -> End:
    """Decide. newest: the run folder's newest checkpoint; last_line: of the job's log.

    1. Who asked for the end says how it is recorded.
    2. Exit status 0 is success, unless the process said otherwise.
    3. What killed the process may not be the job's fault: it starts again, if it can be resumed and has restarts left. A
       checkpoint that is newer than the one that it began with makes restarts count from zero.
    4. Anything else has failed, for the reason that the process gave, or for the last line of its log.
    """
    if job.stop is not None:
        return End(job.stop.state, job.stop.reason, job.restarts)
    if outcome.state == "ended" and outcome.status == 0:
        if result is not None:
            return End(result.state, result.message or result.state, job.restarts)
        return End("succeeded", "its process ended with status 0", job.restarts)
    how = _how(outcome)
    restarts = job.restarts + 1 if newest == job.checkpoint else 1
    again = outcome.state == "lost" or (outcome.status or 0) < 0 or outcome.status == TRY_AGAIN
    spec = job.spec
    if again and spec.resume_command is not None and restarts <= spec.max_restarts:
        place = f"from {newest}" if newest else "from the start"
        return End("queued", f"{how}; going on {place}, restart {restarts} of {spec.max_restarts}", restarts)
    if result is not None and result.state != "succeeded":
        return End(result.state, result.message or how, job.restarts)
    spent = f" after {job.restarts} restarts" if again and job.restarts else ""
    return End("failed", f"{how}{spent}{': ' + last_line if last_line else ''}", job.restarts)


def _how(outcome: Outcome) -> str:
    if outcome.state == "lost" or outcome.status is None:
        return "its process was lost"
    if outcome.status < 0:
        try:
            name = signal.Signals(-outcome.status).name
        except ValueError:
            name = f"signal {-outcome.status}"
        return f"its process was killed by {name}"
    return f"its process ended with status {outcome.status}"
