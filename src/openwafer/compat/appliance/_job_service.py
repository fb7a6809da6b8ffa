"""What a client's jobs of both kinds answer alike: greetings, messages, the watch for failures, goodbye."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from openwafer.appliance import JobFolder
from openwafer.compat.appliance._messages import Lines
from openwafer.compat.appliance._monitor import Monitor
from openwafer.compat.appliance._states import FAILING
from openwafer.compat.appliance._wheel import wheel

_LONGEST_POLL_S = 60.0


class JobService:
    """The part of cerebras.Appliance that every job serves; one method for each call, named as the call is."""

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder
        self.pb = wheel().appliance
        self.done = threading.Event()
        """The client has left."""
        self.monitor = Monitor()
        self._lines = {topic: Lines() for topic in ("COMPILE", "STALL")}

    # --- for the service's own parts ------------------------------------------------------------------------

    def tell(self, kind: str, **fields: Any) -> None:
        """An event for the management node."""
        line = msgspec.json.encode({"at": time.time(), "kind": kind, **fields}) + b"\n"
        with open(self.folder.events, "ab", buffering=0) as file:
            file.write(line)

    def say(self, line: str, topic: str = "") -> None:
        """A line for the job's log, and for the client if it listens to a topic."""
        print(line, flush=True)
        if topic:
            self._lines[topic].add(line)

    def fail(self, why: str) -> None:
        """The job cannot succeed any more. Its process stays until the client, which asks the node why, has left."""
        self.tell(FAILING, message=why)

    def done_or(self, ended: threading.Event) -> None:
        """Wait until the client has left, or until `ended`."""
        while not self.done.is_set() and not ended.wait(0.1):
            pass

    def cancel(self, why: str) -> None:
        """End what runs, and let go who waits for it."""

    def end(self, timeout_s: float) -> None:
        """Wait until all that this job started has gone."""

    def close(self) -> None:
        """Let polls go."""
        self.monitor.close()
        for lines in self._lines.values():
            lines.close()

    # --- calls ----------------------------------------------------------------------------------------------

    def unary_clock_sync(self, request: Any, context: Any) -> Any:
        return wheel().status.ClockSyncResponse(code=_SUCCESS)

    def unary_ping(self, request: Any, context: Any) -> Any:
        return wheel().status.PingResponse(code=_SUCCESS, message="here")

    def unary_heart_beat(self, request: Any, context: Any) -> Any:
        return self.pb.HeartBeatResponse(code=_SUCCESS)

    def unary_get_cwd(self, request: Any, context: Any) -> Any:
        return wheel().status.PingResponse(code=_SUCCESS, message=str(Path.cwd()))

    def unary_start(self, request: Any, context: Any) -> Any:
        """The version is the wheel's own: the protocol is what it says."""
        details = self.pb.StartResponse.VersionDetails(version=wheel().version, githash=wheel().build)
        return self.pb.StartResponse(code=_SUCCESS, version_info=details)

    def unary_msg_queue(self, request: Any, context: Any) -> Any:
        """The next line of a topic, or nothing after the time that the client gives."""
        queue = wheel().queue
        name = queue.ValidTopics.Name(request.topic)
        lines = self._lines.get(name)
        if lines is None:
            time.sleep(min(request.timeout_seconds, 1))
            return self.pb.MsgQueueResponse()
        line = lines.take(min(float(request.timeout_seconds), _LONGEST_POLL_S))
        message = queue.MsgStatus(msg=line)
        message.tag.level = wheel().config.LogSettings.LogLevel.Value(
            "INFO" if name == "COMPILE" else "WARNING"
        )
        return self.pb.MsgQueueResponse(status=message if line else None)

    def unary_monitor_error(self, request: Any, context: Any) -> Any:
        verdict = self.monitor.wait(min(float(request.poll_seconds), _LONGEST_POLL_S))
        tasks = wheel().config.ClusterDetails.TaskInfo.TaskType
        return self.pb.MonitorErrorResponse(
            code=wheel().status.StatusCode.Value(verdict.code),
            message=verdict.message,
            srv_type=tasks.Value(verdict.task),
        )

    def unary_monitor_check(self, request: Any, context: Any) -> Any:
        return self.pb.MonitorCheckResponse(error_monitored=self.monitor.failure is not None)

    def unary_done(self, request: Any, context: Any) -> Any:
        """The client needs nothing more; the process ends as soon as this is answered."""
        self.close()
        context.add_callback(self.done.set)
        return self.pb.DoneResponse(code=_SUCCESS)


_SUCCESS = 0
"""WS_RT_SUCCESS, and what every response's code is if nothing is said."""


def ranges_of(schedule: Any) -> Iterator[tuple[range, bool, int]]:
    """The intervals of a schedule: its steps, whether its last step counts too, and which that is."""
    for part in schedule.intervals:
        yield range(part.start, part.end, max(1, part.step)), part.include_last, part.end - 1


def steps_of(schedule: Any) -> set[int]:
    """Every step of a schedule, counted from 0."""
    found: set[int] = set()
    for steps, include_last, last in ranges_of(schedule):
        found.update(steps)
        if include_last and last >= 0:
            found.add(last)
    return found
