"""The chunks of a PNG that its pixels need.

Texts, profiles and further frames are left out: a text of a few bytes may unpack to megabytes, and Pillow refuses a
picture for that, where Go's library does not look at it. Every checksum is verified, as Go's library does; Pillow
leaves out those of the pixels.
"""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")


def needed(data: bytes) -> bytes:
    """The PNG `data` without what its pixels do not need. Raises ValueError where a chunk is broken."""
    kept, at = [SIGNATURE], len(SIGNATURE)
    while True:
        if len(data) - at < 12:
            raise ValueError("the file ends before the picture does")
        length, kind = struct.unpack_from(">I4s", data, at)
        if length > len(data) - at - 12:
            raise ValueError("the file ends before the picture does")
        end = at + 12 + length
        body = memoryview(data)[at + 4 : end - 4]
        if zlib.crc32(body) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError("the checksum of a chunk is wrong")
        if kind in _NEEDED:
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end
