"""The server's counters as Prometheus metrics, for `shm-server serve --metrics PORT` (extra: metrics)."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from .server import Server

HELP = {
    "echoes": "Echo requests answered",
    "classifications": "Images classified",
    "prompts": "Prompts answered",
    "batches": "Batches taken from the rings",
    "expired": "Requests whose deadline had passed before they were taken",
    "refused": "Requests refused because the server was stopping",
    "model_errors": "Requests whose model raised",
    "bells_sent": "Bells written to sleeping clients",
    "bells_suppressed": "Completions that needed no bell, the client was awake",
    "bells_pending": "Bells dropped because the socket was full of them",
    "queue_ns": "Nanoseconds between submission and the server's taking it, summed over requests that say when",
    "model_ns": "Nanoseconds from taking a batch to its scores, summed over batches",
    "spin_hits": "Spins that found work",
    "spin_misses": "Spins that ended without work",
    "parks": "Sleeps on the doorbells",
    "wakes": "Sleeps that the control thread ended",
    "views": "Model batches read in place",
    "gathers": "Model batches copied together first",
    "protocol_faults": "Sessions closed because the client broke the protocol",
}
GAUGES = {
    "sessions": "Clients connected",
    "prompts_in_flight": "Prompts that text is generated for",
    "prompts_waiting": "Prompts in line for their turn",
}


class Collector:
    """Reads the counters when it is scraped; nothing is added to any request's way."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        counters = self._server.all_counters()
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"shm_{name}", text, counters.pop(name, 0))
        for name, value in counters.items():
            yield CounterMetricFamily(f"shm_{name}", HELP[name], value)
        sizes = CounterMetricFamily("shm_model_batches", "Model batches by the size they ran in", labels=["images"])
        for bucket, count in self._server.dispatcher.batches.items():
            sizes.add_metric([str(bucket)], count)
        yield sizes


def export(server: Server, port: int) -> None:
    """Answer scrapes on 127.0.0.1:`port` in a thread of their own."""
    registry = CollectorRegistry()
    registry.register(Collector(server))
    start_http_server(port, "127.0.0.1", registry)
