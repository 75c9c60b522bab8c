"""`/metrics` for Prometheus: requests as they are answered, videos as the jobs say."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hummingbird_edge.serve.jobs import FINISHED
from hummingbird_edge.serve.service import Service

__all__ = ["Metrics"]

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 10.0)


class Metrics(Collector):
    """What is measured of one server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.registry = CollectorRegistry()
        self.registry.register(self)
        labels = ("method", "route", "status")
        self.requests = Counter(
            "hummingbird_requests", "Requests answered.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "hummingbird_request_seconds",
            "Seconds until an answer began.",
            ("route",),
            registry=self.registry,
            buckets=_BUCKETS,
        )

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what the jobs say now."""
        found = self._service.jobs.statistics()
        videos = GaugeMetricFamily("hummingbird_videos", "Videos by status.", labels=["status"])
        for status in ("queued", "in_progress", *FINISHED):
            videos.add_metric([status], found.get(status, (0, 0))[0])
        yield videos
        size = sum(size for _, size in found.values())
        yield GaugeMetricFamily("hummingbird_store_bytes", "Bytes of all videos.", size)
        most = self._service.store.max_bytes
        yield GaugeMetricFamily("hummingbird_store_max_bytes", "Bytes allowed.", most)

    def text(self) -> bytes:
        """Return all of it in Prometheus' format."""
        return generate_latest(self.registry)

    def watch(self, app: ASGIApp) -> ASGIApp:
        """Return `app`, watched; routes are counted by their pattern, never by an id."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            started = time.perf_counter()

            async def counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route = getattr(scope.get("route"), "path", "other")
                    self.requests.labels(scope["method"][:8], route, message["status"]).inc()
                    self.seconds.labels(route).observe(time.perf_counter() - started)
                await send(message)

            await app(scope, receive, counted)

        return watched
