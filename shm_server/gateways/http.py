"""HTTP + JSON, by Flask under gunicorn: what a model is usually served by, and what shared memory is measured against.

    POST /echo      {"prompt": TEXT}                         -> {"echo_prompt": TEXT}
    POST /classify  a picture, or 3072 bytes of pixels       -> {"label": NAME, "score": P, "scores": {NAME: P, ...}}
    POST /prompt    {"prompt": TEXT, "sampling_steps": 128}  -> {"response": TEXT}
    GET  /healthz                                            -> {"status": "ok", "model": NAME, "classes": [NAME, ...]}
                                                                and "parts", each "up", "down" or "not answering";
                                                                unless all are up "degraded", and status 503

A prompt may also have "temperature", "top_k" and "seed" (see generators.Sampling). With "stream": true the answer is a
line of JSON for each piece of text as it is generated, {"response": PIECE}, and a last one, {"done": true} or
{"error": TEXT}.

Pixels are 1024 bytes red, 1024 green, 1024 blue, each row by row from the top. Every error is {"error": TEXT}. What
goes wrong with a model or a generator has the code of its status in layout.md. The other codes are HTTP's own: 400
malformed, 413 too large, 415 another content type, 503 for what this server does not serve.

gunicorn's threaded worker runs in a thread of this process. Its master process only forks workers and replaces those
that die; it has no part in answering a request. Without it the model that is loaded once serves every transport, one
process id stands for the server, and one signal handler stops it.
"""

import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flask import Flask, Response, request, stream_with_context
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers import gthread
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnsupportedMediaType,
)

from shm_server.client.errors import ModelError as ClientModelError
from shm_server.client.errors import ServerGone
from shm_server.door.supervisor import Supervisor
from shm_server.gateways import tcp
from shm_server.gateways.images import (
    CONTENT_TYPES,
    NAMES,
    ImageError,
    ImageTooLarge,
    looks_like_image,
    pixels_from_image,
)
from shm_server.generators import GeneratorError, ModelError, Sampling, status_of
from shm_server.layout import STATUS_HTTP_CODE, Status
from shm_server.models import INPUT_SHAPE, Classifier
from shm_server.models.scores import checked
from shm_server.runtime import forked
from shm_server.runtime.describe import describe, where

log = logging.getLogger(__name__)

IMAGE_BYTES = 3 * 32 * 32
# A picture of a camera has a few megabytes.
MAX_BODY_BYTES = 16 << 20
MAX_DROPPED_BYTES = 4 * MAX_BODY_BYTES
# One thread runs Python at a time, and one the model; the others decode pictures and wait for slow clients' bodies.
THREADS = 8
# gunicorn's defaults are 2 s and 1000: clients that pause would pay for a new connection each time.
GUNICORN = {"workers": 1, "threads": THREADS, "keepalive": 75, "worker_connections": 2048, "graceful_timeout": 5}


# -- what is answered


def application(
    classifier: Classifier | None,
    generator: Supervisor | None = None,
    parts: Callable[[], Mapping[str, str]] = dict,
) -> Flask:
    """The WSGI application; `parts` is what the server is made of, see `door.server.Server.parts`."""
    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # classes stay in the model's order

    @app.get("/healthz")
    def healthz() -> tuple[dict[str, Any], int]:
        name, classes = (classifier.name, classifier.class_names) if classifier else ("none", ())
        states = dict(parts())
        up = all(state == "up" for state in states.values())
        said = {"status": "ok" if up else "degraded", "model": name, "classes": list(classes), "parts": states}
        return said, 200 if up else 503

    @app.post("/echo")
    def echo() -> dict[str, Any]:
        return {"echo_prompt": of(fields(), "prompt", str)}

    @app.post("/classify")
    def classify() -> dict[str, Any]:
        if classifier is None:
            raise ServiceUnavailable("this server has no model that classifies pictures over HTTP")
        pixels = body_pixels()
        try:
            scores = checked(classifier.scores(pixels), 1, len(classifier.class_names), 1)[0]
        except ServerGone as error:
            raise ServiceUnavailable(f"the model is not there for now: {error}") from error
        except ClientModelError as error:
            return {"error": str(error)}, STATUS_HTTP_CODE[Status.MODEL_ERROR]
        except BaseException as error:  # whatever a model raises, SystemExit too, is that request's answer
            log.error("a request's model failed: %s. %s", describe(error), where(error))
            return {"error": describe(error)}, STATUS_HTTP_CODE[Status.MODEL_ERROR]
        best = int(scores.argmax())
        named = dict(zip(classifier.class_names, scores.tolist(), strict=True))
        return {"label": classifier.class_names[best], "score": float(scores[best]), "scores": named}

    @app.post("/prompt")
    def prompt() -> Any:
        if generator is None:
            raise ServiceUnavailable("this server answers no prompts: it was started with --generator none")
        asked = fields()
        pieces = generator.generate(of(asked, "prompt", str), sampling_of(asked))
        if of(asked, "stream", bool, False):
            first = next(pieces, "")  # what fails before the first piece has a status of its own
            return Response(stream_with_context(lines(first, pieces)), content_type="application/x-ndjson")
        return {"response": "".join(pieces)}

    @app.errorhandler(GeneratorError)
    @app.errorhandler(ModelError)
    def generator_failed(error: Exception) -> tuple[dict[str, Any], int]:
        return {"error": str(error)}, STATUS_HTTP_CODE[status_of(error)]

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException) -> Response:
        response = error.get_response()  # keeps headers such as Allow
        response.data, response.content_type = json.dumps({"error": error.description}), "application/json"
        return response

    return app


def body() -> bytes:
    """The request's body.

    One that is too large is read on for a while, and dropped: a client that still sends would see its connection break
    before it sees the answer.
    """
    stream = request.environ["wsgi.input"]  # request.stream cuts a chunked body off where it is too large
    received = stream.read(MAX_BODY_BYTES + 1)
    if len(received) > MAX_BODY_BYTES:
        received, dropped = b"", 0
        while dropped < MAX_DROPPED_BYTES and (piece := stream.read(1 << 20)):
            dropped += len(piece)
        raise RequestEntityTooLarge(f"a body of more than {MAX_BODY_BYTES} bytes")
    return received


def fields() -> dict[str, Any]:
    """The request's JSON object; {} for what is none."""
    if not request.is_json:
        raise UnsupportedMediaType(f"{request.mimetype or 'no content type'}: send application/json")
    try:
        value = json.loads(body())
    except (ValueError, RecursionError):  # no JSON, too deep
        return {}
    return value if isinstance(value, dict) else {}


def of(fields: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A field of the request's JSON object."""
    value = fields.get(name, default)
    if not isinstance(value, kind):
        raise BadRequest(f'the body must be a JSON object with a "{name}" of type {kind.__name__}')
    return value


def sampling_of(fields: dict[str, Any]) -> Sampling:
    """How the reply is to be drawn. InvalidRequest for values that make no sense."""
    names = {"sampling_steps": "steps", "temperature": "temperature", "top_k": "top_k", "seed": "seed"}
    return Sampling(**{ours: fields[theirs] for theirs, ours in names.items() if theirs in fields})


def lines(first: str, rest: Iterator[str]) -> Iterator[str]:
    """The streaming form of an answer. Closing it, when the client hangs up, cancels the rest."""

    def line(**said: Any) -> str:
        return json.dumps(said, ensure_ascii=False) + "\n"

    try:
        if first:
            yield line(response=first)
        for piece in rest:
            yield line(response=piece)
        yield line(done=True)
    except (GeneratorError, ModelError) as error:
        yield line(error=str(error))
    finally:
        rest.close()


def body_pixels() -> np.ndarray:
    """The picture in the request's body, read-only: uint8 (1, 3, 32, 32)."""
    declared = request.mimetype
    picture = declared in CONTENT_TYPES
    # No type at all, or what `curl --data-binary` says unless told otherwise, tells nothing: the bytes do.
    if not picture and declared not in ("", "application/octet-stream", "application/x-www-form-urlencoded"):
        raise UnsupportedMediaType(f"{declared}: send one of {', '.join(CONTENT_TYPES)}, or application/octet-stream")
    data = body()
    raw = len(data) == IMAGE_BYTES and (declared == "application/octet-stream" or not looks_like_image(data))
    if raw and not picture:
        return np.frombuffer(data, np.uint8).reshape(1, *INPUT_SHAPE)
    if not picture and not looks_like_image(data):
        raise BadRequest(f"{len(data)} bytes that are none of {NAMES}; raw pixels must be {IMAGE_BYTES}")
    try:
        pixels = pixels_from_image(data)
        pixels.flags.writeable = False
        return pixels
    except ImageTooLarge as error:
        raise RequestEntityTooLarge(str(error)) from error
    except ImageError as error:
        raise BadRequest(str(error)) from error


# -- who answers


class Server:
    """Serves `classifier` (None: echo only) over HTTP on `sock`, which `tcp.bind` made.

    `classifier.scores` is called from several threads: see `Serialized`. `parts` is what health says, see
    `door.server.Server.parts`. `on_failure` is called, in a thread of the
    server's, should it end by itself; `stop` then raises why.
    """

    def __init__(
        self,
        classifier: Classifier | None,
        sock: socket.socket,
        generator: Supervisor | None = None,
        parts: Callable[[], Mapping[str, str]] = dict,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket, self._on_failure = sock, on_failure
        host, port = sock.getsockname()
        self.url = f"http://{host}:{port}"
        hosted = _Hosted(application(classifier, generator, parts))
        self._worker = _Worker(0, os.getpid(), [sock], hosted, 0, hosted.cfg, _Log(hosted.cfg))
        self._failure: BaseException | None = None
        self._address = sock.getsockname()
        forked.close_in_child(self._abandon)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Let clients in. Raises SocketInUse or OSError."""
        tcp.listen(self._socket, self._worker.cfg.backlog)
        self._thread.start()
        log.info("listening on %s", self.url)

    def stop(self) -> None:
        """Answer what is in flight, close every connection and end every thread."""
        self._worker.handle_exit(None, None)  # gunicorn's SIGTERM
        self._thread.join()
        if self._failure:
            raise self._failure

    def _abandon(self) -> None:
        forked.let_go(self._address)

    def _run(self) -> None:
        try:
            self._worker.init_process()
        except BaseException as error:  # gunicorn's worker would die, for its master to start another
            log.exception("HTTP ended by itself")
            self._failure = error
            self._on_failure()
        finally:
            self._socket.close()


class _Hosted(BaseApplication):
    """The application with its settings, as gunicorn's documentation has it ("Custom Application")."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        super().__init__()

    def load_config(self) -> None:
        for name, value in GUNICORN.items():
            self.cfg.set(name, value)
        self.cfg.set("errorlog", None)  # see _Log

    def load(self) -> Flask:
        return self._app


class _Worker(gthread.ThreadWorker):
    """gunicorn's threaded worker without a process of its own: no signals, no master to report to."""

    def init_signals(self) -> None: ...

    def notify(self) -> None: ...

    def is_parent_alive(self) -> bool:
        return True  # the parent is whoever started the server, and may go

    def handle(self, conn: gthread.TConn) -> Any:
        # From gunicorn 24 on, a new connection keeps a thread from others until it says something, for up to 5 s. Some
        # clients open connections in advance (Go under load, browsers): let those wait in the poller.
        if not getattr(conn, "data_ready", True) and not conn.initialized:
            said = select.poll()
            said.register(conn.sock, select.POLLIN)
            if not said.poll(0):
                return gthread._DEFER
            conn.data_ready = True
        return super().handle(conn)

    def accept(self, *listener: Any) -> None:  # two arguments up to gunicorn 23, then one
        try:
            super().accept(*listener)
        except OSError as error:  # out of descriptors
            log.error("HTTP: accept: %s", error)
            time.sleep(0.01)  # the listener stays readable: do not burn a core until a descriptor is free


class _Log(Logger):
    """gunicorn's log lines among ours; none a request."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.error_log.propagate = True
        self.error_log.setLevel(logging.NOTSET)
