"""What Prometheus is told: cases by state, what cases took, requests by route and status, whether anybody computes."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from rediffinet.clinic.service.jobs import Jobs
from rediffinet.clinic.service.supervisor import Supervisor


class Measures(Collector):
    """Numbers of the store are read when they are asked for, so they survive a restart."""

    def __init__(self, jobs: Jobs, supervisor: Supervisor) -> None:
        self._jobs = jobs
        self._supervisor = supervisor
        self._requests = Counter("rediff_requests", "Requests answered", ["route", "status"], registry=None)

    def register(self, registry: CollectorRegistry) -> None:
        """Let a registry ask."""
        registry.register(self)
        registry.register(self._requests)

    def count(self, route: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()

    def collect(self) -> Iterable[Metric]:
        """What there is now."""
        cases = GaugeMetricFamily("rediff_cases", "Cases that are kept, by state", labels=["state"])
        for state, number in self._jobs.store.counts().items():
            cases.add_metric([state], number)
        yield cases
        yield GaugeMetricFamily("rediff_queue_limit", "Cases taken at a time", self._jobs.settings.limits.queue)
        yield GaugeMetricFamily("rediff_ready", "Whether the computing process is ready", int(self._supervisor.ready))
        restarts = CounterMetricFamily("rediff_restarts", "How often the computing process died")
        restarts.add_metric([], self._supervisor.restarts)
        yield restarts
        spent = [
            max(0.0, job.finished - job.started)  # a clock may be set back
            for job in self._jobs.store.recent(100)
            if job.started is not None and job.finished is not None
        ]
        mean = sum(spent) / len(spent) if spent else 0.0
        yield GaugeMetricFamily("rediff_case_seconds_mean", "Mean seconds of the last 100 cases that are kept", mean)
