"""Picture files that are broken, or larger than they look: each must be one line, from Go and over HTTP."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from picture_files import chunk, png, saved, tiff
from pictures_of_all_kinds import exif
from PIL import Image

NOISE = Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 50, 3), np.uint8))


def huge() -> Iterator[tuple[str, bytes]]:
    """Files of a few bytes whose header promises too many pixels."""
    gray = np.zeros((1, 1, 1), np.uint8)
    for side in (1 << 28, (1 << 31) - 1, 50_000):
        whole = bytearray(png(gray, 8, 0))
        whole[16:24] = struct.pack(">II", side, side)
        whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
        yield f"{side}.png", bytes(whole)
    rows = b"".join(b"\0" + bytes(1125) for _ in range(8000))  # a fair one, but too large
    head = struct.pack(">IIBBBBB", 9000, 8000, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    yield "fair.png", b"\x89PNG\r\n\x1a\n" + body

    jpeg = bytearray(saved(NOISE, "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65535, 65535)
    yield "65535.jpg", bytes(jpeg)
    progressive = bytearray(saved(NOISE, "JPEG", progressive=True))
    at = progressive.index(b"\xff\xc2")
    progressive[at + 5 : at + 9] = struct.pack(">HH", 65535, 65535)
    yield "65535-progressive.jpg", bytes(progressive)

    gif = bytearray(saved(NOISE, "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield "65535.gif", bytes(gif)

    bmp = bytearray(saved(NOISE, "BMP"))
    for width, height in ((1 << 30, 1 << 30), (100_000, 1000), (1000, -100_000)):
        bmp[18:26] = struct.pack("<ii", width, height)
        yield f"{width}x{height}.bmp", bytes(bmp)

    for width, height in (((1 << 32) - 1, (1 << 32) - 1), (100_000, 1000)):
        yield f"{width}x{height}.tif", with_tags(tiff(np.asarray(NOISE)), {256: width, 257: height})

    x = struct.pack("<I", 10) + bytes(4) + b"\xff" * 6
    yield "canvas.webp", b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + x
    lossless = bytearray(saved(NOISE, "WEBP", lossless=True))
    at = lossless.index(b"VP8L") + 9
    lossless[at : at + 4] = struct.pack("<I", 16383 | 16383 << 14)
    yield "16384-lossless.webp", bytes(lossless)
    lossy = bytearray(saved(NOISE, "WEBP"))
    at = lossy.index(b"\x9d\x01\x2a") + 3
    lossy[at : at + 4] = struct.pack("<HH", 16383, 16383)
    yield "16383-lossy.webp", bytes(lossy)


def with_tags(file: bytes, values: dict[int, int]) -> bytes:
    """A little-endian TIFF with other values of some tags, all as LONG."""
    data = bytearray(file)
    (count,) = struct.unpack_from("<H", data, 8)
    for at in range(10, 10 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", data, at)
        if tag in values:
            struct.pack_into("<HII", data, at + 2, 4, 1, values[tag])
    return bytes(data)


def broken() -> Iterator[tuple[str, bytes]]:
    """Files that are no pictures, or not whole ones."""
    yield "empty.png", b""
    yield "text.jpg", b"no picture\n"
    yield "page.gif", b"<!doctype html><title>404</title>"
    yield "pixels.bmp", bytes(3071)
    yield "archive.webp", b"RIFF\x10\0\0\0WAVEfmt " + bytes(8)
    yield "mail.bmp", b"BM" + b"x" * 100
    for format, suffix in (
        ("PNG", "png"),
        ("JPEG", "jpg"),
        ("GIF", "gif"),
        ("WEBP", "webp"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
    ):
        whole = saved(NOISE, format)
        for part in (12, len(whole) // 4, len(whole) // 2, len(whole) * 3 // 4):
            yield f"first-{part}.{suffix}", whole[:part]
        yield f"zeros.{suffix}", whole[:20] + bytes(len(whole) - 20)
    for side, name in ((0, "none"), (1, "one")):
        for format, at, shape in (("PNG", 16, ">II"), ("GIF", 6, "<HH"), ("BMP", 18, "<ii")):
            data = bytearray(saved(NOISE, format))
            struct.pack_into(shape, data, at, 0, side)
            if format == "PNG":
                data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
            yield f"no-width-{name}.{format.lower()}", bytes(data)
    flipped = bytearray(saved(NOISE, "PNG"))
    flipped[len(flipped) // 2] ^= 1
    yield "flipped-bit.png", bytes(flipped)
    yield "directory-beyond-the-end.tif", b"II*\0\xff\xff\xff\xff"
    yield "directory-in-itself.tif", b"II*\0\x04\0\0\0"
    whole = tiff(np.asarray(NOISE))
    yield "strip-beyond-the-end.tif", with_tags(whole, {273: 0xFFFFFFF0})
    yield "nothing-known.tif", with_tags(whole, {262: 99})
    yield "no-adobe.jpg", without_adobe(saved(NOISE.convert("CMYK"), "JPEG"))
    for name, change in (("3-across", 0x31), ("4-down", 0x14), ("none", 0x00)):
        sampled = bytearray(saved(NOISE, "JPEG"))
        sampled[sampled.index(b"\xff\xc0") + 11] = change
        yield f"sampled-{name}.jpg", bytes(sampled)
    coded = saved(NOISE, "JPEG").replace(b"\xff\xc0", b"\xff\xc9")  # arithmetic coding
    yield "arithmetic.jpg", coded
    file = io.BytesIO()
    NOISE.save(file, "WEBP", save_all=True, append_images=[NOISE.rotate(90)])
    yield "animated.webp", file.getvalue()


def without_adobe(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xee")
    (length,) = struct.unpack_from(">H", jpeg, at + 2)
    return jpeg[:at] + jpeg[at + 2 + length :]


def odd_but_fair() -> Iterator[tuple[str, bytes]]:
    """What looks dangerous, or lies, and is a picture all the same."""
    pixels = np.asarray(NOISE)
    bomb = zlib.compress(bytes(64 << 20))
    yield "text-bomb.png", png(pixels, 8, 2, chunks=chunk(b"zTXt", b"Comment\0\0" + bomb))
    yield "profile-bomb.png", png(pixels, 8, 2, chunks=chunk(b"iCCP", b"ICC\0\0" + bomb))
    long = chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20))
    yield "long-text.png", png(pixels, 8, 2, chunks=long)
    yield "really-a-jpeg.png", saved(NOISE, "JPEG", quality=90)
    yield "really-a-gif.jpg", saved(NOISE, "GIF")
    yield "no-suffix", saved(NOISE, "WEBP", quality=90)
    yield "more-behind-the-end.png", saved(NOISE, "PNG") + bytes(3000)
    for size in ((1, 1), (1, 60_000), (60_000, 1), (2, 3)):
        for format, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif")):
            yield f"{size[0]}x{size[1]}.{suffix}", saved(Image.new("RGB", size, (200, 60, 20)), format)
    yield "1x16383.webp", saved(Image.new("RGB", (1, 16383), (200, 60, 20)), "WEBP")
    turned = exif(6)
    for name, data in (
        ("cut", turned[:20]),
        ("noise", b"Exif\0\0" + bytes(range(200))),
        ("orientation-9", exif(9)),
    ):
        yield f"exif-{name}.jpg", saved(NOISE, "JPEG", exif=data, quality=95)
        yield f"exif-{name}.png", saved(NOISE, "PNG", exif=data)
        yield f"exif-{name}.webp", saved(NOISE, "WEBP", exif=data, lossless=True)
    many = [NOISE.rotate(angle) for angle in range(0, 360, 5)]
    yield "many-frames.gif", saved(NOISE, "GIF", save_all=True, append_images=many)
