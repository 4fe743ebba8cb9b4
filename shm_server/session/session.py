"""A session: one client's socket, segment and lane, from the handshake to the goodbye."""

import itertools
import logging
import socket
from collections.abc import Mapping

from shm_server import _core
from shm_server.layout import FrameKind, Reason
from shm_server.session import doorbell
from shm_server.session.segment import LaneSpec, Segment

log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class Session:
    """Everything that one client's connection holds on the server; `close` gives all of it back.

    `lane` is the C side of the session's lane; `inputs` and `outputs` are the slots' rows in place, (slots, *dims)
    each. The data thread uses them until it has taken the lane out of its poller; only then may `close` be called.

    finite   a mask of FP32 outputs, bit i for output i, in which a NaN or an infinity is an error of the model
    """

    def __init__(
        self, sock: socket.socket, peer: doorbell.Peer, spec: LaneSpec, *, sealed: bool, finite: int = 0
    ) -> None:
        self.number = next(_numbers)
        self.socket, self.peer = sock, peer
        self.segment = Segment(spec, sealed=sealed)
        try:
            self.lane = _core.Lane(self.segment.memory, sock.fileno(), finite)
            self.inputs, self.outputs = self.segment.inputs(), self.segment.outputs()
            self.views: dict[tuple[int, int], object] = {}  # of neighbouring slots, as the data thread keeps them
        except BaseException:
            self.segment.close()
            raise

    def welcome(self, *, server: str, model: Mapping[str, object]) -> None:
        """Tell the client that it is in, and hand it the segment. `model` is the signature, as layout.md has it."""
        segment = self.segment
        doorbell.send_welcome(self.socket, segment.fd, segment.size, segment.epoch, server=server, model=model)
        segment.close_fd()

    def close(self, reason: Reason | None = None, message: str = "") -> None:
        """End the session; with a reason the client is told before the socket closes.

        A client that hung up, or broke the protocol, reads zeros from now on. One that is told that the server ends, in
        whatever way, may still be reading what it was answered, and keeps it: with the server's end nothing adds up.
        """
        if reason is not None:
            doorbell.send_reason(self.socket, FrameKind.GOODBYE, reason, message)
        self.socket.close()
        self.unmap(collapse=reason not in (Reason.DRAINING, Reason.MOVED, Reason.INTERNAL))

    def unmap(self, *, collapse: bool = True) -> None:
        """Give the memory back; the socket stays open. See `Segment.close`."""
        self.lane.close()
        self.inputs = self.outputs = ()  # no view may outlive the mapping
        self.views = {}
        try:
            self.segment.close(collapse=collapse)
        except BufferError:
            log.error("%s: the model still holds a view of its slots; they stay mapped", self)
        except OSError as error:
            log.error("%s: its memory was not given back: %s", self, error)

    def __str__(self) -> str:
        return f"session {self.number} (pid {self.peer.pid}, uid {self.peer.uid})"
