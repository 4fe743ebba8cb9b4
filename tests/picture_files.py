"""Encoders: Pillow's, and ours for what Pillow cannot write (16 bits of colour, transparent colours of few bits)."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(samples: np.ndarray, depth: int, colour: int, *, chunks: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of samples (height, width, channels)."""
    height, width = samples.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, across, down in passes:
        part = samples[top::down, left::across]
        if part.size == 0:
            continue
        for row in part.reshape(len(part), -1):
            if depth == 16:
                rows += b"\0" + row.astype(">u2").tobytes()
            else:
                bits = np.unpackbits(row.astype(np.uint8)[:, np.newaxis], axis=1)[:, 8 - depth :]
                rows += b"\0" + np.packbits(bits.reshape(-1)).tobytes()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", head) + chunks + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(
    samples: np.ndarray, *, order: str = "<", orientation: int = 1, extra: int | None = None, photometric: int = 2
) -> bytes:
    """An uncompressed TIFF of samples (height, width, channels), uint8 or uint16, in either order of bytes."""
    height, width, channels = samples.shape
    bits = samples.dtype.itemsize * 8
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric], 273: [0],
        274: [orientation], 277: [channels], 278: [height], 279: [len(pixels)],
    }  # fmt: skip
    if extra is not None:
        tags[338] = [extra]
    first = 8 + 2 + 12 * len(tags) + 4
    behind, entries = b"", b""
    tags[273] = [first + 8]
    for tag, values in sorted(tags.items()):
        kind, letter = (3, "H") if max(values) < 65536 and tag not in (273, 279) else (4, "I")
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            behind, packed = packed.ljust(8, b"\0"), struct.pack(f"{order}I", first)
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return head + behind.ljust(8, b"\0") + pixels
