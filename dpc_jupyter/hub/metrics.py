"""What /metrics tells: counts alone, never a node id."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.logins = Counter("dpc_hub_logins", "Logins that went through", registry=self._registry)
        self.online = Gauge("dpc_hub_online_sessions", "Open sessions of this process", registry=self._registry)
        self.signals = Counter("dpc_hub_signals", "Signals handed to their session", registry=self._registry)
        self.searches = Counter("dpc_hub_searches", "Searches answered", registry=self._registry)
        self.refused = Counter("dpc_hub_refused", "What was refused", ["what"], registry=self._registry)
        self.routing = Histogram(
            "dpc_hub_routing_seconds",
            "From a signal's arrival to its place in the receiver's outbox",
            buckets=(0.001, 0.005, 0.02, 0.05, 0.2, 1.0),
            registry=self._registry,
        )

    def refuse(self, what: str) -> None:
        """Count a refusal; `what` is one of our own words."""
        self.refused.labels(what).inc()

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)
