"""A session: one client's socket, segment and lanes, from the handshake to the goodbye."""

import itertools
import logging
import socket
from collections.abc import Sequence

from . import _core, doorbell
from .layout import FrameKind, LaneKind, Reason
from .segment import LaneSpec, Segment

log = logging.getLogger(__name__)
_numbers = itertools.count(1)


class Session:
    """Everything that one client's connection holds on the server; `close` gives all of it back.

    `lane` is the C side of the session's one lane, `images` an image lane's slots in place: uint8 (slots, 3, 32, 32).
    The data thread uses both until it has taken the lane out of its poller; only then may `close` be called.
    """

    def __init__(self, sock: socket.socket, peer: doorbell.Peer, spec: LaneSpec, *, sealed: bool) -> None:
        self.number = next(_numbers)
        self.socket, self.peer = sock, peer
        self.segment = Segment([spec], sealed=sealed)
        try:
            self.lane = _core.Lane(self.segment.memory, 0, sock.fileno())
            self.images = self.segment.images(0) if spec.kind == LaneKind.IMAGE else None
        except BaseException:
            self.segment.close()
            raise

    def welcome(self, *, server: str, model: str, classes: Sequence[str]) -> None:
        """Tell the client that it is in, and hand it the segment."""
        segment = self.segment
        doorbell.send_welcome(
            self.socket, segment.fd, segment.size, segment.epoch, server=server, model=model, classes=classes
        )
        segment.close_fd()

    def close(self, reason: Reason | None = None, message: str = "") -> None:
        """End the session; with a reason the client is told before the socket closes.

        A client that hung up, or broke the protocol, reads zeros from now on. One that is told that the server ends, in
        whatever way, may still be reading what it was answered, and keeps it: with the server's end nothing adds up.
        """
        if reason is not None:
            doorbell.send_reason(self.socket, FrameKind.GOODBYE, reason, message)
        self.socket.close()
        self.unmap(collapse=reason not in (Reason.DRAINING, Reason.INTERNAL))

    def unmap(self, *, collapse: bool = True) -> None:
        """Give the memory back; the socket stays open. See `Segment.close`."""
        self.lane.close()
        self.images = None  # a view must not outlive the mapping
        try:
            self.segment.close(collapse=collapse)
        except BufferError:
            log.error("%s: the model still holds a view of its slots; they stay mapped", self)
        except OSError as error:
            log.error("%s: its memory was not given back: %s", self, error)

    def __str__(self) -> str:
        return f"session {self.number} (pid {self.peer.pid}, uid {self.peer.uid})"
