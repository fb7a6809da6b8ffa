"""How a run went, in the protocol's terms: where each system's time went, and a trace of the steps that the client asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from openwafer.cluster import StepDone
from openwafer.compat.appliance._wheel import wheel

if TYPE_CHECKING:
    from openwafer.train.report import Timeline

_PARTS = ("compute", "weights_wait", "gradients_wait", "inputs_wait", "values_wait")
_TO_US = 1e6


@dataclass
class _Times:
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0.0))


@final
class Performance:
    """Sums of the seconds that systems measured, over the steps of a run. For one thread at a time."""

    def __init__(self, first: int = 0) -> None:
        """first: the number of the run's first step."""
        self._first = first
        self._steps = self._samples = 0
        self._elapsed = 0.0
        self._systems: dict[int, _Times] = {}

    def add(self, event: StepDone) -> None:
        self._steps += 1
        self._samples += event.samples
        self._elapsed += event.seconds
        for result in event.results:
            times = self._systems.setdefault(result.system, _Times()).seconds
            for part in _PARTS:
                times[part] += getattr(result, f"{part}_s")

    def message(self, workdir: str) -> Any:
        """An ExecuteJobPerf: for each system its name, the steps and a table of seconds; the sums in microseconds beside."""
        perf = wheel().appliance.FinalizeResponse().perf
        for index, times in sorted(self._systems.items()):
            system = perf.system.add(node_name=f"system-{index}", chief_workdir=workdir)
            summary = system.io_timestamp
            summary.start_user_step = summary.start_rt_iter = self._first
            summary.end_user_step = summary.end_rt_iter = self._first + self._steps - 1
            summary.table = "\n".join(
                [
                    f"{'steps':<16} {self._steps:>12}",
                    f"{'samples/s':<16} {self._samples / max(self._elapsed, 1e-9):>12.2f}",
                    *(
                        f"{part.replace('_', ' '):<16} {spent:>12.3f} s"
                        for part, spent in times.seconds.items()
                    ),
                ]
            )
            runtime = perf.runtime.add(server_type="ACT", ishard=index)
            runtime.summary["steps"] = self._steps
            for part, spent in times.seconds.items():
                runtime.summary[f"{part}_us"] = round(spent * _TO_US)
        return perf


def trace_events(timeline: Timeline, first: int, last: int, system: str = "system0") -> list[Any]:
    """Events of steps `first` to `last`, as the timeline numbers them: what one system computed, layer by layer, and the steps
    themselves; microseconds from the beginning of the first. In the order in which they end; [] if nothing was recorded."""
    kinds = wheel().appliance.FinalizeResponse.EventTrace
    marks = {step: at for step, at in timeline.marks.items() if first <= step <= last}
    if not marks:
        return []
    start = min(marks.values())
    after = [at for step, at in timeline.marks.items() if step > last]
    spans = [
        span
        for span in timeline.spans
        if span.lane == system
        and start <= span.start_s < min(after, default=float("inf"))
        and span.name.startswith(("forward ", "backward "))
    ]
    events = []
    for span in spans:
        kind, _, rest = span.name.partition(" ")
        layer = rest.partition(" [")[0].removeprefix("state.").removeprefix("model.")
        events.append(
            kinds(
                name=f"{layer}.{kind}",
                cat=kind,
                event_type=kinds.EventType.Value("OP"),
                ts=_TO_US * (span.start_s - start),
                dur=_TO_US * (span.end_s - span.start_s),
                pytorch_ops=[layer],
            )
        )
    ends = [*sorted(marks.values())[1:], max((span.end_s for span in spans), default=start)]
    for (step, at), end in zip(sorted(marks.items()), ends, strict=True):
        kind = kinds.EventType.Value("STEP")
        events.append(
            kinds(name=f"step {step}", event_type=kind, ts=_TO_US * (at - start), dur=_TO_US * (end - at))
        )
    return sorted(events, key=lambda event: float(event.ts + event.dur))
