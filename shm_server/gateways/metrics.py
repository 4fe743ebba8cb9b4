"""The server's counters as Prometheus metrics, for `shm-server serve --metrics PORT` (extra: metrics)."""

import logging
import socket
import socketserver
import threading
from collections.abc import Iterator
from wsgiref import simple_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shm_server.door import server
from shm_server.gateways import address
from shm_server.runtime import forked
from shm_server.worker.counters import BATCHES, GAUGES, HELP

log = logging.getLogger(__name__)


class Collector:
    """Reads the counters when it is scraped; nothing is added to any request's way."""

    def __init__(self, server: server.Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        counters = self._server.all_counters()
        batches = {name: counters.pop(name) for name in tuple(counters) if name.startswith(BATCHES)}
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"shm_{name}", text, counters.pop(name, 0))
        for name, value in counters.items():
            yield CounterMetricFamily(f"shm_{name}", HELP.get(name, name), value)
        sizes = CounterMetricFamily("shm_model_batches", "Model batches by the size they ran in", labels=["images"])
        for name, count in batches.items():
            sizes.add_metric([name.removeprefix(BATCHES)], count)
        yield sizes
        parts = GaugeMetricFamily(
            "shm_part_up", "Is a part there that the server was asked for, and answers", labels=["part"]
        )
        for part, state in self._server.parts().items():
            parts.add_metric([part], state == "up")
        yield parts


class Server:
    """Answers scrapes of `serving` on `sock`, which `address.bind` made, in threads of its own."""

    def __init__(self, serving: server.Server, sock: socket.socket) -> None:
        registry = CollectorRegistry()
        registry.register(Collector(serving))
        self._address = sock.getsockname()
        self._http = _Http(self._address, _Quiet, bind_and_activate=False)
        self._http.socket.close()
        self._http.socket = sock  # bound before the model was loaded
        self._http.server_name, self._http.server_port = self._address[:2]
        self._http.setup_environ()
        self._http.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._http.serve_forever, name="metrics", daemon=True)
        forked.close_in_child(self._abandon)

    def start(self) -> None:
        """Let clients in. Raises SocketInUse or OSError."""
        address.listen(self._http.socket)
        self._thread.start()
        log.info("metrics at http://%s/metrics", address.Tcp.of(self._http.socket))

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _abandon(self) -> None:
        forked.let_go(self._address)


class _Http(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class _Quiet(simple_server.WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """A line a scrape is no news."""
