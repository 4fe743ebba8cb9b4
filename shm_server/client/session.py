"""A session: one lane of one model, from the welcome to its end. Any thread may use it."""

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Sequence

import numpy as np

from shm_server import _core, layout
from shm_server.client import errors, handshake, signature
from shm_server.client.errors import (
    ClientError,
    Closed,
    DeadlineExceeded,
    Draining,
    ModelError,
    ProtocolError,
    ServerGone,
)  # fmt: skip
from shm_server.client.handshake import Address, Welcome
from shm_server.client.segment import Header
from shm_server.client.signature import Signature
from shm_server.layout import FrameKind, Reason, Status
from shm_server.runtime.describe import one_line
from shm_server.session.doorbell import LaneRequest

# What ClientLane answers instead of a slot; see native/client.c.
LATE, ENDED, DRAINING, LOST_LATE, LOST = -1, -2, -3, -4, -5
# Of a goodbye whose first byte has come: a server writes it in one piece.
GOODBYE_PATIENCE = 1.0


def spin_ns(seconds: float) -> int:
    """As ClientLane has it: negative is without end."""
    return -1 if math.isinf(seconds) else int(seconds * 1e9)


class Session:
    """`lane` is the C side, `signature` the model's; `inputs` and `outputs` are the slots' rows in place, (slots,
    *dims) each. They keep the memory mapped as long as they are referred to, whatever becomes of the session.
    """

    def __init__(self, sock: socket.socket, welcome: Welcome, request: LaneRequest, spin: float, evented: bool) -> None:
        """Takes the socket and the descriptor over. ProtocolError where the segment is not as layout.md has it."""
        self._socket, self._lock, self._why = sock, threading.Lock(), None
        self.opened = time.monotonic()
        try:
            memory = _map(welcome)
            header = Header(bytes(memoryview(memory)[: layout.PAGE_BYTES]), size=welcome.size, epoch=welcome.epoch)
            if header.lane["protocol"] != request.protocol:
                wanted = request.protocol.name.lower()
                raise ProtocolError.of(
                    "geometry", f"a lane of protocol {header.lane['protocol']}, asked for was {wanted}"
                )
            self.signature: Signature = signature.parse(welcome.model)
            signature.check(self.signature, header.inputs, header.outputs)
            view = memoryview(memory)
            self.inputs = [header.rows(view, tensor) for tensor in header.inputs]
            self.outputs = [header.rows(view, tensor) for tensor in header.outputs]
            self.lane = _core.ClientLane(memory, header.page, sock.fileno(), spin_ns(spin), welcome.ahead_ns, evented)
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(welcome.fd)
        self.server = welcome.server
        self.bound = self.lane.bound
        self.flags = [i for i, tensor in enumerate(self.signature.outputs) if tensor.datatype == "BOOL"]
        sock.setblocking(False)

    @classmethod
    def dial(
        cls, address: Address, request: LaneRequest, *, spin: float, deadline: float | None, evented: bool = False
    ) -> "Session":
        sock, welcome = handshake.dial(address, request, deadline)
        try:
            return cls(sock, welcome, request, spin, evented)
        except ClientError as error:
            error.not_run = True
            raise

    def fileno(self) -> int:
        """Of the doorbell, for an event loop."""
        return self._socket.fileno()

    # -- outputs

    def output(self, number: int, slot: int, extent: int) -> np.ndarray:
        """A copy of an output's row, of what counts of it. `intact` follows."""
        rows, tensor = self.outputs[number], self.signature.outputs[number]
        row = rows[slot, :extent] if tensor.symbolic else rows[slot]
        return row.view(np.uint8) != 0 if number in self.flags else row.copy()

    def intact(self) -> None:
        """Was all that has been copied out of the segment until now written by the server? Raises ServerGone."""
        if self.lane.hung_up or self.lane.broken:
            self.lane.end(False)
            raise self.failure()

    # -- what an answer means

    def not_sent(self, code: int) -> ClientError | None:
        """The error of a call that got LATE, ENDED or DRAINING instead of a slot; None: it is to be made in the next
        session.
        """
        if code == LATE:
            text = f"no slot of {self.lane.slots} was free in time"
            return DeadlineExceeded(text, not_run=True)
        if code == DRAINING:
            return Draining("shm-server is draining: it takes no new work", not_run=True)
        return None

    def lost(self, code: int) -> ClientError | None:
        """The error of a call that got LOST or LOST_LATE; None: it was not run, and is to be made in the next
        session.
        """
        if code == LOST_LATE:
            return DeadlineExceeded("the answer did not come in time", not_run=False)
        failure = self.failure()
        return None if isinstance(failure, errors.Moved) else failure

    def failed(self, slot: int) -> ClientError:
        """The error that a completion with another status than ok is. The slot is done; the caller releases it."""
        status, _, _, batch, _, _, _, message = self.lane.result(slot)
        try:
            self.intact()
        except ServerGone as gone:
            return gone
        return status_error(status, batch, message)

    # -- the end

    def failure(self) -> ServerGone | Closed:
        """Why the session ended, as an exception of one's own. The lane is over; the first caller reads the goodbye."""
        with self._lock:
            if self._why is None:
                self._why = self._find_out()
            self._hang_up()
            return self._why.again()

    def violated(self, rule: str, detail: str) -> ServerGone:
        """End the session because the server broke a rule."""
        self.lane.end(True, f"{rule}: {detail}")
        return self.failure()

    def close(self) -> None:
        """Hang up; calls in flight fail with Closed."""
        with self._lock:
            if self._why is None:
                self._why = Closed("the client was closed")
            self.lane.end(True)
            self._hang_up()

    def forget(self) -> None:
        """In a forked child: the session is the parent's. Nothing is said to the server."""
        self._lock = threading.Lock()  # whoever held it is not here
        self._why = ServerGone("a forked child has no part in its parent's session", not_run=True)
        self.lane.forget()
        self._socket.close()

    def __del__(self) -> None:
        if hasattr(self, "lane"):  # else the socket was closed
            self._socket.close()

    def _find_out(self) -> ServerGone:
        lane = self.lane
        if lane.broken:
            return ServerGone("shm-server is gone: its segment was truncated, or the file system is full")
        if lane.fault:
            return ProtocolError.of(*lane.fault.split(": ", 1))
        if lane.farewell:
            return self._goodbye(lane.farewell)
        if lane.error:
            return ServerGone(f"shm-server is gone: {os.strerror(lane.error)}")
        return ServerGone("shm-server is gone: it closed the connection without a goodbye")

    def _goodbye(self, begun: bytes) -> ServerGone:
        fds: list[int] = []
        try:
            until = time.monotonic() + GOODBYE_PATIENCE
            kind, body = handshake.receive_frame(self._socket, until, fds, begun)
            if kind != FrameKind.GOODBYE:
                return ProtocolError.of("frame", f"a message of kind {kind} after the handshake")
            reason, message = handshake.reason_of(body)
        except ProtocolError as error:
            return error
        except (EOFError, OSError) as error:
            return ServerGone(f"shm-server is gone: it broke off its goodbye: {error or 'end of file'}")
        finally:
            for fd in fds:
                os.close(fd)
        text = f"shm-server is gone: it ended the session: {message or handshake.reason_name(reason)}"
        kinds = {Reason.MOVED: errors.Moved, Reason.DRAINING: Draining, Reason.PROTOCOL: ProtocolError}
        return kinds.get(reason, ServerGone)(text)

    def _hang_up(self) -> None:
        """Close the socket, unless a thread sleeps on it: that one comes here next.

        A server that ended the session by itself leaves the pages as they are. One that we leave, or that we have done
        wrong, takes them back: what is read from then on may be zeros.
        """
        self.lane.end(isinstance(self._why, (Closed, ProtocolError)))
        with contextlib.suppress(OSError):  # the server was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        if not self.lane.led:
            self._socket.close()


def status_error(status: int, batch: int, message: bytes) -> ClientError:
    """Of a call's completion, or of a prompt's that is no PromptError."""
    text = one_line(message.decode(errors="replace"))
    not_run = not batch  # a prompt that had begun counts itself
    if status == Status.DEADLINE_EXCEEDED:
        return DeadlineExceeded("the deadline had passed when the server came to the call", not_run=not_run)
    if status == Status.DRAINING:
        return Draining("shm-server is draining: it takes no new work", not_run=not_run)
    return ModelError(f"the model failed: {text}")


def span(numbers: Sequence[int]) -> slice | list[int]:
    """Numbers in a row as a slice, which NumPy follows faster, and without a copy."""
    first, count = numbers[0], len(numbers)
    if numbers[-1] - first == count - 1 and all(n == first + i for i, n in enumerate(numbers)):
        return slice(first, first + count)
    return list(numbers)


def _map(welcome: Welcome) -> _core.Mapping:
    try:
        there = os.fstat(welcome.fd).st_size
        if there < welcome.size:
            text = f"a file of {there} bytes, the welcome said {welcome.size}"
            raise ProtocolError.of("geometry", text)
        return _core.Mapping(welcome.fd, welcome.size)
    except OSError as error:
        raise ProtocolError.of("memory", f"the segment can not be mapped: {error.strerror}") from None
