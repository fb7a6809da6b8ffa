"""Numbers of running jobs for Prometheus: those that whoever asks may see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from openwafer.appliance._users import User
from openwafer.appliance.dashboard._views import Dashboard

_JOB = ("job_id", "name", "user")


@final
class JobNumbers(Collector):
    """Gauges with one row for each job that runs now, by id, name and user; memory and cores also by role."""

    def __init__(self, dashboard: Dashboard, user: User) -> None:
        self._dashboard = dashboard
        self._user = user

    def collect(self) -> Iterator[Metric]:
        step = _gauge("wafer_job_step", "Completed steps")
        steps = _gauge("wafer_job_steps", "Steps that the job is to make")
        loss = _gauge("wafer_job_loss", "Loss of the last step")
        rate = _gauge("wafer_job_samples_per_second", "Samples a second over the last steps")
        systems = _gauge("wafer_job_systems", "Systems that the job has")
        restarts = _gauge(
            "wafer_job_restarts_since_checkpoint", "Restarts since the job's last new checkpoint"
        )
        memory = _gauge("wafer_role_memory_bytes", "Own memory of a role's process", "role")
        shared = _gauge("wafer_role_shared_bytes", "Shared memory that a role's process has touched", "role")
        cores = _gauge("wafer_role_cores", "Cores that a role keeps busy", "role")
        for job, progress, uses in self._dashboard.running():
            if not self._user.admin and job.user != self._user.name:
                continue
            row = (job.id, job.spec.name, job.user)
            systems.add_metric(row, len(job.systems))
            restarts.add_metric(row, job.restarts)
            if progress is not None:
                step.add_metric(row, progress.step)
                for metric, value in ((loss, progress.loss), (rate, progress.samples_per_s)):
                    if value is not None:
                        metric.add_metric(row, value)
                if progress.steps:
                    steps.add_metric(row, progress.steps)
            for use in uses:
                memory.add_metric((*row, use.name), use.memory_bytes)
                shared.add_metric((*row, use.name), use.shared_bytes)
                if use.cores is not None:
                    cores.add_metric((*row, use.name), use.cores)
        yield from (step, steps, loss, rate, systems, restarts, memory, shared, cores)


def _gauge(name: str, help: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, labels=(*_JOB, *labels))
