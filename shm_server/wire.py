"""What the server's process says to those that it starts, and they to it, all of it.

A worker is the process of a model, worker/main.py is it; a gateway is the process of another way in, gateways/main.py
is it. door/replica.py starts both. Between the two is a seqpacket pair, where a packet is a message: a tag of one byte,
and the body, a JSON object of the message's fields.

    server -> gateway   Open          first of all: which one, and how; the socket is passed that it listens on
                        AskCounters, Move, Stop, as to a worker
    server -> worker    Load          first of all: what to load, and how to serve it
                        Client        a client of shared memory, and what its hello asks for; its socket is passed
                        AskCounters   answered by Counters
                        Move          another worker serves now: tell the clients, answer what is in flight, and end
                        Stop          answer what is in flight for a few seconds, and end
    both   -> server    Ready         it has its model and is warm, or its transport
                        Failed        it could not load, in words, and ends
                        Counters      when it is asked, and the last thing that it says

The end of the file is the end of the other process; a worker that has read no Stop then knows that the server died.
"""

import dataclasses
import errno
import json
import logging
import os
import signal
import socket
import struct
from typing import ClassVar, NoReturn

from shm_server.layout import Protocol
from shm_server.runtime import logs, process

log = logging.getLogger(__name__)

# Bytes of a packet: signatures with their labels, with room to spare. A socket's buffer holds it, 208 KiB by default.
MAX_PACKET = 128 << 10


class Malformed(ValueError):
    """A packet that is none of the messages expected; the text says what it was.

    passed    the socket that came with it, to be closed; None for none
    """

    passed: socket.socket | None = None


class TooLong(ValueError):
    """A message of more than MAX_PACKET bytes, which was not sent."""


@dataclasses.dataclass(frozen=True)
class Message:
    """One of those below."""

    passes: ClassVar[bool] = False
    """Does a socket come with it?"""
    program: ClassVar[str] = ""
    """The module that is run in a process which is told this first of all."""


@dataclasses.dataclass(frozen=True)
class Load(Message):
    program = "shm_server.worker.main"
    protocol: str  # of the model: a name of layout.Protocol
    options: dict  # what to load, see worker.py; not on a command line, an endpoint's URL may have a password in it
    serving: dict  # arguments of `worker.serve`
    log: dict  # arguments of `logs.configure`
    path: list  # the server's sys.path: what it can import, a worker can


@dataclasses.dataclass(frozen=True)
class Open(Message):
    program = "shm_server.gateways.main"
    passes = True
    gateway: str  # a name of gateways.main.GATEWAYS
    options: dict  # its own
    log: dict  # arguments of `logs.configure`


@dataclasses.dataclass(frozen=True)
class Client(Message):
    passes = True
    protocol: int  # a layout.Protocol, and so on: the fields of a doorbell.LaneRequest
    model: str
    slot_count: int
    input_extent: int
    output_extent: int

    def __post_init__(self) -> None:
        Protocol(self.protocol)


@dataclasses.dataclass(frozen=True)
class AskCounters(Message):
    pass


@dataclasses.dataclass(frozen=True)
class Move(Message):
    pass


@dataclasses.dataclass(frozen=True)
class Stop(Message):
    pass


@dataclasses.dataclass(frozen=True)
class Ready(Message):
    model: dict  # its metadata, as a welcome has it; {} of a gateway


@dataclasses.dataclass(frozen=True)
class Failed(Message):
    words: str
    misnamed: bool  # there is no such generator, as far as it can be told by its name: `NoGenerator`


@dataclasses.dataclass(frozen=True)
class Counters(Message):
    values: dict  # numbers by name

    def __post_init__(self) -> None:
        if not all(type(value) is int for value in self.values.values()):
            raise ValueError("a counter that is no whole number")


# A tag is a message's place in this line, from 1.
MESSAGES = (Load, Open, Client, AskCounters, Move, Stop, Ready, Failed, Counters)
TAGS = {kind: tag for tag, kind in enumerate(MESSAGES, 1)}


_INT = struct.Struct("i")


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a wire."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def begin(fd: int, kind: type[Message]) -> tuple[socket.socket, Message, socket.socket | None]:
    """In a process that the server has started: its end of the wire, the first message, which is of `kind`, and the
    socket that it passes. SystemExit when the server has died meanwhile.
    """
    for number in process.SIGNALS:  # meant for the whole group: we stop when the server says so
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, process.SIGNALS)
    sock = socket.socket(fileno=fd)
    try:
        first, passed = receive(sock, kind)
    except EOFError:
        raise SystemExit(1) from None
    logs.configure(**first.log)
    return sock, first, passed


def orphaned() -> NoReturn:
    """In such a process: the server was killed, and so its clients see the same of us."""
    log.error("the server's process is gone: so is %d, which it had started", os.getpid())
    logs.flush()
    os._exit(1)


def send(sock: socket.socket, message: Message, passed: socket.socket | None = None, flags: int = 0) -> None:
    """Send a message, with a socket if it passes one. OSError when the other end is gone; TooLong."""
    packet = encode(message)
    if len(packet) > MAX_PACKET:
        raise TooLong(f"a {type(message).__name__} of {len(packet)} bytes; at most {MAX_PACKET} are sent")
    flags |= socket.MSG_NOSIGNAL
    if passed is None:
        sock.send(packet, flags)
    else:
        socket.send_fds(sock, [packet], [passed.fileno()], flags)


def receive(sock: socket.socket, *kinds: type[Message], flags: int = 0) -> tuple[Message, socket.socket | None]:
    """The next message, one of `kinds`, and the socket that it passes, which is the caller's to close.

    EOFError: the other process has closed its end; Malformed; OSError EMFILE: the socket that came was lost, this
    process has as many descriptors open as it may. No program that is started inherits what was passed.
    """
    room, flags = socket.CMSG_LEN(_INT.size), flags | socket.MSG_CMSG_CLOEXEC
    try:  # not socket.recv_fds: that of Python 3.11 drops the flags that it is given
        packet, rights, how, _ = sock.recvmsg(MAX_PACKET, room, flags)
    except ConnectionResetError:  # it had not read all of ours; what it had said by then is still there, said once
        packet, rights, how, _ = sock.recvmsg(MAX_PACKET, room, flags)
    passed = None
    for _, _, data in rights:  # at most one: there is room for no more, and nothing in it when the socket was lost
        passed = socket.socket(fileno=_INT.unpack(data)[0]) if data else None
    try:
        if not packet:
            raise EOFError("the other process has closed its end of the wire")
        message = decode(packet, kinds, whole=not how & socket.MSG_TRUNC)
        if passed and not message.passes:
            raise Malformed(f"a {type(message).__name__} with a socket")
    except Malformed as error:
        error.passed = passed
        raise
    if message.passes and not passed:
        raise OSError(errno.EMFILE, "a client was lost: this process has as many descriptors open as it may")
    return message, passed


def encode(message: Message) -> bytes:
    """The packet that says `message`."""
    tag = bytes([TAGS[type(message)]])
    return tag + json.dumps(vars(message), ensure_ascii=False).encode(errors="surrogatepass")


def decode(packet: bytes, kinds: tuple[type[Message], ...], *, whole: bool = True) -> Message:
    """The message that a packet says, one of `kinds`. Raises Malformed."""
    expected = " or ".join(kind.__name__ for kind in kinds)
    tag, body = packet[0], packet[1:]
    kind = MESSAGES[tag - 1] if 1 <= tag <= len(MESSAGES) else None
    if kind not in kinds:
        raise Malformed(f"expected {expected}, got {kind.__name__ if kind else f'a packet with tag {tag}'}")
    if not whole:
        raise Malformed(f"a {kind.__name__} of more than {MAX_PACKET} bytes")
    try:
        fields = json.loads(body.decode(errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a {kind.__name__} whose body is no JSON: {error}") from error
    wanted = {field.name: field.type for field in dataclasses.fields(kind)}
    if not isinstance(fields, dict) or fields.keys() != wanted.keys():
        got = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise Malformed(f"a {kind.__name__} has the fields {sorted(wanted)}, got {got}")
    for name, value in fields.items():
        if type(value) is not wanted[name]:
            raise Malformed(
                f"{name} of a {kind.__name__} is of type {wanted[name].__name__}, got {type(value).__name__}"
            )
    try:
        return kind(**fields)
    except ValueError as error:
        raise Malformed(f"a {kind.__name__} with {error}") from error
