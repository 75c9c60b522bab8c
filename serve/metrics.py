"""`/metrics` for Prometheus: requests as they are answered, videos as the jobs say."""

import time
from functools import partial

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hummingbird_edge.serve.job import FINISHED, OPEN
from hummingbird_edge.serve.service import Service

__all__ = ["Metrics"]

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 10.0)
_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
"""Clients may send any word, each would be a series of its own; HEAD is counted as GET."""


class Metrics:
    """What is measured of one server."""

    def __init__(self, service: Service) -> None:
        registry = self._registry = CollectorRegistry()
        jobs, store = service.jobs, service.store
        videos = Gauge("hummingbird_videos", "By status.", ("status",), registry=registry)
        for status in (*OPEN, *FINISHED):
            videos.labels(status).set_function(partial(jobs.count, status))
        used = Gauge("hummingbird_store_bytes", "Of all videos.", registry=registry)
        used.set_function(jobs.total_bytes)
        most = Gauge("hummingbird_store_max_bytes", "That videos may have.", registry=registry)
        most.set(store.max_bytes)
        self._seconds = Histogram(
            "hummingbird_request_seconds",
            "Until an answer began.",
            ("method", "route", "status"),
            registry=registry,
            buckets=_BUCKETS,
        )

    def text(self) -> bytes:
        """Return all of it in Prometheus' format."""
        return generate_latest(self._registry)

    def watch(self, app: ASGIApp) -> ASGIApp:
        """Return `app`, watched; routes are counted by their pattern, never by an id."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            started = time.perf_counter()

            async def counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route = getattr(scope.get("route"), "path", "other")
                    method = scope["method"] if scope["method"] in _METHODS else "other"
                    labels = method, route, message["status"]
                    self._seconds.labels(*labels).observe(time.perf_counter() - started)
                await send(message)

            await app(scope, receive, counted)

        return watched
