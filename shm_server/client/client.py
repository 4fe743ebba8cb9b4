"""Connections to the models of one server."""

import functools
import threading
import weakref
from collections.abc import Iterable
from typing import Any

from shm_server import layout
from shm_server.client import handshake, signature
from shm_server.client.deadlines import deadline_ns, seconds
from shm_server.client.errors import Closed
from shm_server.client.handshake import PATIENCE, Address
from shm_server.client.link import Link
from shm_server.client.model import Model
from shm_server.client.session import Session
from shm_server.client.signature import ModelInfo
from shm_server.client.stream import Prompt, Stream
from shm_server.door.listener import default_socket
from shm_server.layout import Protocol
from shm_server.runtime import forked
from shm_server.session.doorbell import LaneRequest

# Waking a sleeper costs 5 to 50 us: a call that is answered within twice that is worth polling for.
DEFAULT_SPIN = 100e-6


class Connections:
    """What both clients have: where the server is, who may run it, and a link for each lane that was asked for."""

    evented = False

    def __init__(
        self,
        path: str | None = None,
        *,
        trust: Iterable[int] | None = (),
        spin: float = DEFAULT_SPIN,
        patience: float = PATIENCE,
    ) -> None:
        """Nothing is dialled yet.

        path      of the socket; None: where `shm-server serve` listens unless it is told otherwise
        trust     ids of users whose servers are talked to, besides this one's and root's; None: anybody's
        spin      seconds that a call polls for its answer before it sleeps; 0: not at all, math.inf: without end
        patience  seconds that a server may take to answer a hello
        """
        if not spin >= 0:
            raise ValueError(f"spin={spin}: expected 0 or more")
        self.address = Address(path or default_socket(), None if trust is None else frozenset(trust), patience)
        self._spin = spin
        self._links: dict[LaneRequest, Link] = {}
        self._all: weakref.WeakSet[Link] = (
            weakref.WeakSet()
        )  # one that was dropped may have come to a session after all
        self._lock = threading.Lock()
        self._closed = False
        forked.close_in_child(self._forget)

    def link(self, request: LaneRequest) -> Link:
        with self._lock:
            if self._closed:
                raise Closed("the client was closed", not_run=True)
            link = self._links.get(request)
            if link is None:
                link = self._links[request] = Link(
                    functools.partial(Session.dial, self.address, request, spin=self._spin, evented=self.evented)
                )
                self._all.add(link)
            return link

    def drop(self, request: LaneRequest) -> None:
        """A link that has never had a session: names that there are not take no room."""
        with self._lock:
            if request in self._links and not self._links[request].dials:
                del self._links[request]

    def ask(self, question: str, deadline: float | None) -> Any:
        """The answer to a question of layout.md, which opens no session; by then, of `time.monotonic`. Raises
        ClientError.
        """
        if self._closed:
            raise Closed("the client was closed", not_run=True)
        return handshake.ask(self.address, question, deadline)

    def close_links(self) -> None:
        with self._lock:
            self._closed = True
            links = list(self._all)
        for link in links:
            link.close()

    def _forget(self) -> None:
        """In a forked child: the connections are the parent's. The child dials its own."""
        self._lock = threading.Lock()
        for link in list(self._all):
            link.forget()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.address}>"


class Client(Connections):
    """A server's models, for threads: any of them may use any of it. A model's session is opened when the model is
    asked for, and again by the call after its end. Leave the block of a `with`, or `close`, when it is not needed any
    more.

        with shm_server.Client() as client:
            y = client.model("iris")(x)
            for piece in client.stream("To be, or not to be"):
                print(piece, end="", flush=True)

    A forked child has a client without connections, which dials its own.
    """

    def model(self, name: str = "", *, slots: int = 0, extent: int = 0, timeout: float | None = None) -> Model:
        """The model of that name, "" for the server's default.

        slots     calls that may be in flight at a time; 0: as the server has it
        extent    what the symbolic dimension's bound is to be: the most tokens, say; 0: as the server has it
        timeout   of connecting, in seconds

        Raises NoSuchModel, whose text lists those that there are, ServerGone where nobody listens, or another
        ClientError.
        """
        request = lane_request(Protocol.CALL, name, slots, extent)
        link = self.link(request)
        try:
            return Model(link, link.session(seconds(deadline_ns(timeout))))
        except BaseException:
            self.drop(request)
            raise

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Those that the server has now, the default of each protocol first. Opens no session. Raises ClientError."""
        return signature.parse_models(self.ask("models", seconds(deadline_ns(timeout))))

    def health(self, *, timeout: float | None = None) -> dict[str, str]:
        """The parts of the server, by name: each "up", "down" or "not answering". Raises ClientError."""
        return signature.parse_health(self.ask("health", seconds(deadline_ns(timeout))))

    def echo(self, *args: Any, timeout: float | None = None, **inputs: Any) -> int:
        """Send the inputs of the default model all the way but the model: see `Model.echo`."""
        return self.model(timeout=timeout).echo(*args, timeout=timeout, **inputs)

    def stream(
        self,
        prompt: str,
        *,
        model: str = "",
        slots: int = 0,
        prompt_bytes: int = 0,
        reply_bytes: int = 0,
        timeout: float | None = None,
        **sampling: Any,
    ) -> Stream:
        """Have a model answer: an iterator of the pieces of its text. `timeout` is that of all of it.

        slots          prompts that may be in flight at a time; 0: as the server has it, and so on
        prompt_bytes   of the longest prompt
        reply_bytes    of the longest reply; a longer one is cut, which `truncated` says

        steps          tokens at most; 128 unless said
        temperature    0 takes the likeliest token each time; as suits the model unless said
        top_k          draw among that many of the likeliest, 0: among all; as suits the model unless said
        seed           of the drawing; a new one unless said

        Raises InvalidRequest, NoSuchModel, ServerGone, or another ClientError; the iterator raises more, see Stream.
        """
        checked = Prompt.of(prompt, **sampling)
        request = lane_request(Protocol.STREAM, model, slots, prompt_bytes, reply_bytes)
        link = self.link(request)
        try:
            return Stream(link, checked, timeout)
        except BaseException:
            self.drop(request)
            raise

    def close(self) -> None:
        """Fail the calls in flight with Closed, and hang up. Slots that are leased keep their memory. Closing twice
        does nothing.
        """
        self.close_links()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lane_request(protocol: Protocol, model: str, slots: int, extent: int, reply_extent: int = 0) -> LaneRequest:
    """ValueError for what a hello can not say."""
    if len(model.encode()) > layout.MAX_MODEL_NAME_BYTES:
        raise ValueError(f"a model's name of {len(model.encode())} bytes, at most {layout.MAX_MODEL_NAME_BYTES}")
    if not 0 <= slots <= layout.MAX_SLOTS:
        raise ValueError(f"{slots} slots, expected 0 (the server's default) to {layout.MAX_SLOTS}")
    most = layout.MAX_SEGMENT_BYTES if protocol == Protocol.CALL else layout.MAX_TEXT_BYTES
    for each in (extent, reply_extent):
        if not 0 <= each <= most:
            raise ValueError(f"an extent of {each}, expected 0 (the server's default) to {most}")
    return LaneRequest(protocol, model, slots, extent, reply_extent)
