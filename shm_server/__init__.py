"""Call Python models from Go through shared memory: the server's side.

from shm_server import Server

class Brightness:                       # any object with these three is a classifier
    name = "brightness"
    class_names = ("dark", "bright")

    def scores(self, pixels):           # uint8 (n, 3, 32, 32), borrowed -> float32 (n, 2)
        bright = pixels.mean(axis=(1, 2, 3), dtype="float32") / 255
        return numpy.stack([1 - bright, bright], axis=1)

Server(Brightness()).run()              # until a signal, or Server.stop()
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shm_server.client.aio import AsyncClient
    from shm_server.client.client import Client
    from shm_server.door.listener import SocketInUse, default_socket
    from shm_server.door.server import Server
    from shm_server.models import Classifier, load_classifier
    from shm_server.models.function import model

    __version__: str

# Imported when they are used: the command takes signals before NumPy is there.
_MODULES = {
    "AsyncClient": "client.aio",
    "Classifier": "models",
    "Client": "client.client",
    "Server": "door.server",
    "SocketInUse": "door.listener",
    "default_socket": "door.listener",
    "load_classifier": "models",
    "model": "models.function",
}
__all__ = [
    "AsyncClient", "Classifier", "Client", "Server", "SocketInUse", "__version__", "default_socket", "load_classifier",
    "model",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("shm-server")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
