"""Call Python models from Go through shared memory: the server's side.

from shm_server import Server

class Brightness:                       # any object with these three is a classifier
    name = "brightness"
    class_names = ("dark", "bright")

    def scores(self, pixels):           # uint8 (n, 3, 32, 32), borrowed -> float32 (n, 2)
        bright = pixels.mean(axis=(1, 2, 3), dtype="float32") / 255
        return numpy.stack([1 - bright, bright], axis=1)

Server(Brightness()).run()              # until Server.stop()
"""

from importlib.metadata import version

from .listener import SocketInUse, default_socket
from .models import Classifier, load_classifier
from .server import Server

__version__ = version("shm-server")
__all__ = ["Classifier", "Server", "SocketInUse", "__version__", "default_socket", "load_classifier"]
