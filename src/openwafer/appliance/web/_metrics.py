"""Numbers for Prometheus: read from the node when they are asked for, so that they cannot drift from it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from openwafer.appliance._node import ManagementNode
from openwafer.appliance._queue import RESOURCES
from openwafer.appliance._users import User
from openwafer.appliance.dashboard import Dashboard, JobNumbers


@final
class Metrics:
    """The exposition of one node."""

    def __init__(self, node: ManagementNode, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._registry = CollectorRegistry()
        self._registry.register(_NodeNumbers(node))
        ProcessCollector(registry=self._registry)

    def text(self, user: User) -> bytes:
        """What Prometheus reads with this user's token: the cluster's numbers, and those of the running jobs that are his."""
        jobs = CollectorRegistry()
        jobs.register(JobNumbers(self._dashboard, user))
        return generate_latest(self._registry) + generate_latest(jobs)


class _NodeNumbers(Collector):
    def __init__(self, node: ManagementNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        queue = self._node.queue()
        jobs = GaugeMetricFamily("wafer_jobs", "Jobs that have not ended", labels=["state", "kind"])
        for labels, count in Counter((job.state, job.spec.kind) for job in queue).items():
            jobs.add_metric(labels, count)
        yield jobs
        ended = CounterMetricFamily(
            "wafer_jobs_ended", "Jobs that have ended since the node began", labels=["state"]
        )
        for state, count in self._node.ended.items():
            ended.add_metric([state], count)
        yield ended
        yield CounterMetricFamily(
            "wafer_job_restarts", "Starts after the first since the node began", value=self._node.restarted
        )
        waiting = [job.created for job in queue if job.state == "queued" and not job.starts]
        yield GaugeMetricFamily(
            "wafer_queue_oldest_seconds",
            "How long the oldest job waits for its first start",
            value=time.time() - min(waiting) if waiting else 0.0,
        )
        total, free = self._node.amounts()
        for name, help, amounts in (
            ("wafer_resource_total", "What is in service", total),
            ("wafer_resource_free", "What no job has", free),
        ):
            metric = GaugeMetricFamily(name, help, labels=["resource"])
            for resource, amount in zip(RESOURCES, amounts, strict=True):
                metric.add_metric([resource], amount)
            yield metric
