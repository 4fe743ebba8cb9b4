"""What stands in a message before protobuf makes objects of it: of two bytes for an empty part it makes ninety."""

# At the top of a message; a request has one for each input, its bytes, each output, and a few more.
MAX_FIELDS = 256

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check(data: bytes) -> None:
    """ValueError for more than MAX_FIELDS, and for what is no message."""
    at = 0
    for _ in range(MAX_FIELDS):
        if at == len(data):
            return
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            size, at = _varint(data, at)
            at += size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at > len(data):
            raise ValueError("it ends within a field")
    if at != len(data):
        raise ValueError(f"more than {MAX_FIELDS} fields")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, at + shift + 1
    raise ValueError("a number without an end")
