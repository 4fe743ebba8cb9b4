"""What comes to a door: clients' first messages, and packets between door and worker, of right and wrong words.

python tests/fuzz/messages.py SEED COUNT

hands so many to what reads them: each is a message, or an error that says why not.
"""

import collections
import dataclasses
import json
import random
import sys

from client import framed, hello

from shm_server import layout, wire
from shm_server.layout import FrameKind, Reason
from shm_server.session import doorbell

# Numbers that break things.
NASTY = (0, 1, 2, 3, 4, 7, 8, 63, 64, 255, 256, 1024, 4095, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**32 - 1, 2**32)
NASTY += (2**63 - 1, 2**64 - 4096, 2**64 - 1)
NAMES = (b"", b"masked", b"stub", b"\xff\xfe", b"n" * 255, b"n" * 256, "n\u00e4me".encode(), b"a\0b", b"a\nb")
VALUES = (None, True, 0, -1, 1.5, 2**70, "", "text", "\ud800", [], [[]], {}, {"a": 1}, float("inf"))


def number(choose: random.Random, size: int) -> int:
    """One that `size` bytes hold."""
    return (choose.choice(NASTY) if choose.random() < 0.7 else choose.getrandbits(64)) % 256**size


def first_message(choose: random.Random) -> bytes:
    """A hello or a question, with a word of it changed, or cut short, or longer; or any bytes."""
    if choose.random() < 0.05:
        return choose.randbytes(choose.randrange(1, 100))
    if choose.random() < 0.3:
        message = framed(
            FrameKind.QUESTION, choose.choice((b"models", b"", choose.randbytes(choose.choice((9, 2000)))))
        )
    else:
        fields = {}
        for name in choose.sample(layout.hello.names, choose.randrange(3)):
            name_of = {"features_needed": "needed", "layout_major": "major"}
            fields[name_of.get(name, name)] = number(choose, layout.hello[name].itemsize)
        message = hello(model=choose.choice(NAMES), **{"protocol": choose.choice((1, 2)), **fields})
    message = bytearray(message)
    if choose.random() < 0.3:  # any byte of it
        message[choose.randrange(len(message))] = choose.getrandbits(8)
    if choose.random() < 0.2:
        message = message[: choose.randrange(len(message))]
    return bytes(message) + (choose.randbytes(3) if choose.random() < 0.1 else b"")


def packet(choose: random.Random) -> bytes:
    """One of the wire's, of its fields or others, of their types or others; or with any bytes in it."""
    kind = choose.choice(wire.MESSAGES)
    fields = {field.name: choose.choice(VALUES) for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        fits = [value for value in VALUES if type(value) is field.type]
        if fits and choose.random() < 0.8:
            fields[field.name] = choose.choice(fits)
    if fields and choose.random() < 0.1:
        fields.pop(choose.choice(list(fields)))
    if choose.random() < 0.1:
        fields["colour"] = 1
    tag = wire.TAGS[kind] if choose.random() < 0.9 else choose.getrandbits(8)
    said = bytearray(bytes([tag]) + json.dumps(fields).encode())
    if choose.random() < 0.3:
        said[choose.randrange(len(said))] = choose.getrandbits(8)
    return bytes(said)


def read_first(message: bytes) -> str:
    """As the door does: what it is, or why it is refused. Any other exception is a bug."""
    try:
        if len(message) < (size := doorbell.first_size(message)):
            return "incomplete"
        if size == layout.frame.itemsize:
            raise AssertionError("a first message of no body")
        if (question := doorbell.asked(message[:size])) is not None:
            assert len(question.encode()) <= 3 * layout.MAX_QUESTION_BYTES
            return "question"
        request = doorbell.parse_hello(message[:size])
    except doorbell.Refused as refused:
        doorbell.reason_frame(FrameKind.REFUSAL, Reason(refused.reason), str(refused))
        return f"refused {refused.reason.name}"
    assert request.slot_count <= layout.MAX_SLOTS
    assert len(request.model.encode()) <= layout.MAX_MODEL_NAME_BYTES
    return "hello"


def read_packet(said: bytes) -> str:
    """As both ends of the wire do: its kind, or that it is none. Any other exception is a bug."""
    try:
        message = wire.decode(said, wire.MESSAGES)
    except wire.Malformed:
        return "malformed"
    assert wire.decode(wire.encode(message), wire.MESSAGES) == message
    return type(message).__name__


def fuzz(seed: int, count: int) -> collections.Counter[str]:
    """How many of `count` were read as what."""
    choose, read = random.Random(seed), collections.Counter()
    for _ in range(count):
        for make, reader in ((first_message, read_first), (packet, read_packet)):
            message = make(choose)
            try:
                read[reader(message)] += 1
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {message!r}") from error
    return read


if __name__ == "__main__":
    print(f"seed {sys.argv[1]}")
    print(", ".join(f"{what} {count}" for what, count in sorted(fuzz(int(sys.argv[1], 0), int(sys.argv[2])).items())))
