"""Every transport over one model that needs no framework, for tests: stub_transports.py KIND FOLDER [PORT].

Serves shared memory at FOLDER/shm, and by a gateway each the Unix-socket protocol at FOLDER/uds and HTTP at PORT (0:
any), which are clients of it. The kinds are
guarded, gated by FOLDER/gate, raising, hostile (see stub_server.py), none, and network: the bundled one. It is
`shm-server serve --uds --http` without the flags.
"""

import logging
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import stub_server

from shm_server import Server
from shm_server.door.listener import Listener
from shm_server.gateways.address import Tcp, bind
from shm_server.gateways.hosted import Gateway
from shm_server.models import load_classifier
from shm_server.runtime import logs


class Guarded(stub_server.Brightness):
    """Brightness that notices when two threads are in it, and pixels that it may write or that lie apart."""

    def __init__(self) -> None:
        self._inside = threading.Lock()

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (3, 32, 32)
        assert pixels.flags.c_contiguous
        assert not pixels.flags.writeable
        assert self._inside.acquire(blocking=False), "two threads in the model"
        try:
            threading.Event().wait(0.0002)  # let others try to come in
            return super().scores(pixels)
        finally:
            self._inside.release()


def main() -> None:
    logs.configure()
    kind, folder, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    if kind == "gated":
        sys.argv[3] = str(folder / "gate")  # its FILE
    kinds = {"guarded": Guarded, "none": lambda: None}
    kinds |= {kind: getattr(stub_server, kind.title()) for kind in ("gated", "hostile", "raising")}
    if kind == "network":
        kinds[kind] = lambda: load_classifier("openvino")
    server, served = Server(kinds[kind](), folder / "shm"), {"socket": str(folder / "shm")}
    at = Listener(folder / "uds"), bind(Tcp(port))
    gateways = [Gateway(name, each, served) for name, each in zip(("uds", "http"), at, strict=True)]

    def stop() -> None:  # the model, which is in this process, answers what they have in hand
        for gateway in gateways:
            gateway.ask_to_stop()
        for gateway in gateways:
            gateway.stop()
        server.stop()

    stopping = threading.Thread(target=stop, name="stopping")
    signal.signal(signal.SIGTERM, lambda *_: stopping.start())
    for gateway in gateways:
        gateway.start()
    with at[0]:
        server.run()
    stopping.join()
    names = [thread.name for thread in threading.enumerate() if thread.name not in ("MainThread", "log")]
    logging.info("threads left: %s", [name for name in names if not name.startswith("ThreadPool")])


if __name__ == "__main__":
    main()
