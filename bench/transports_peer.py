"""A Unix-socket server and an HTTP server, each with the model in its own process, as a sidecar is usually built.

python -m bench.transports_peer --uds PATH --http PORT

They are the gateways of shm-server, called with the model itself instead of a client of the lanes: HTTP under
gunicorn's threaded worker, a thread a connection for the socket, and a lock around the model.
"""

from __future__ import annotations

import argparse
import gc
import signal
import sys

from shm_server.door.listener import Listener
from shm_server.gateways import http, tcp, uds
from shm_server.gateways.serialized import Serialized
from shm_server.models import ENGINES, load_classifier, warm_up
from shm_server.runtime import logs


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.transports_peer", description="Serve a model in the usual ways.")
    parser.add_argument("--uds", required=True, metavar="PATH")
    parser.add_argument("--http", required=True, type=int, metavar="PORT")
    parser.add_argument("--engine", choices=(*ENGINES, "none"), default="tensorflow")
    args = parser.parse_args()
    logs.configure()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))  # inherited by every thread
    classifier = None
    if args.engine != "none":
        classifier = load_classifier(args.engine, threads=1)
        warm_up(classifier, [1])
        classifier = Serialized(classifier)
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(1e-4)  # as shm-server does
    servers = [uds.Server(classifier, Listener(args.uds)), http.Server(classifier, tcp.bind(args.http))]
    for each in servers:
        each.start()
    signal.sigwait((signal.SIGTERM, signal.SIGINT))
    for each in servers:
        each.stop()


if __name__ == "__main__":
    main()
