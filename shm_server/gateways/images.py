"""Picture files as the 32 x 32 pixels that the model sees.

The same pixels, but for a rounding, as Go's package pictures makes of the same file: it is turned as its EXIF data
says; its middle square is scaled to 32 x 32; what is transparent is white. Of an animation, the first frame counts.
Colour profiles and gamma are ignored. What only one of the two sides' libraries could read is refused by both.
"""

import io
import struct
import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from shm_server.gateways import picture_kinds, png_chunks
from shm_server.runtime.describe import describe

SIDE = 32
STRIP = 256  # rows that are scaled at a time
# Width times height. A few kilobytes can unpack to gigabytes; this is more than most cameras have. The Go side
# (go-shm-client/pictures) says the same, and a test compares them.
MAX_PIXELS = 1 << 26

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
NAMES = "PNG, JPEG, GIF, WebP, BMP and TIFF"
CONTENT_TYPES = tuple(f"image/{name.lower()}" for name in FORMATS)

_SIGNATURES = (png_chunks.SIGNATURE, b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
_BMP_HEADERS = (40, 108, 124)  # bytes
_TURNS = {  # ImageOps.exif_transpose has them too, but fails at EXIF data of which other parts are broken
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

warnings.filterwarnings("ignore", module=r"PIL\.")  # a client's file causes them, as often as it likes


class ImageError(ValueError):
    """A picture that cannot be read."""


class ImageTooLarge(ImageError):
    """A picture of more than MAX_PIXELS."""


def looks_like_image(data: bytes) -> bool:
    """Whether `data` begins as a picture of one of the FORMATS does."""
    if data[:2] == b"BM":  # pixels may begin so, too
        return len(data) >= 18 and struct.unpack_from("<I", data, 14)[0] in _BMP_HEADERS
    return data.startswith(_SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def pixels_from_image(data: bytes) -> np.ndarray:
    """The pixels of a picture file, uint8 (1, 3, 32, 32), planar RGB. Raises ImageError."""
    if not looks_like_image(data):
        raise ImageError(f"no readable picture: not one of {NAMES}")
    try:
        if data.startswith(png_chunks.SIGNATURE):
            data = png_chunks.needed(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width < 1 or height < 1:
                raise ImageError(f"no readable picture: {width} x {height} pixels")
            if width * height > MAX_PIXELS:
                raise ImageTooLarge(f"a picture of {width} x {height} pixels, at most {MAX_PIXELS} are taken")
            pixels = _scaled(_decoded(image, data))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"a picture of more than {MAX_PIXELS} pixels: that is the most") from error
    except UnidentifiedImageError as error:  # its text names an object in memory
        raise ImageError(f"no readable picture: begins as one of {NAMES}, but is none") from error
    except Exception as error:  # Pillow raises about anything at a broken file
        raise ImageError(f"no readable picture: {describe(error)}") from error
    return pixels[np.newaxis]


def _scaled(square: Image.Image) -> np.ndarray:
    """A square of any mode as uint8 (3, 32, 32), on white.

    Pillow scales bytes in two steps, and rounds and clips after each; with floats it does neither, as Go's library: so
    the two differ by a rounding. The first step, across, is done strip by strip: floats of the whole would be large.
    """

    def resized(band: np.ndarray, height: int) -> np.ndarray:
        return np.asarray(Image.fromarray(band).resize((SIDE, height), Image.Resampling.BICUBIC))

    size, strips = square.width, []
    for top in range(0, size, STRIP):
        strip = _with_opacity(square.crop((0, top, size, min(top + STRIP, size))))
        opacity = strip[..., 3] / np.float32(255)
        colours = [strip[..., channel] * opacity for channel in range(3)]
        strips.append([resized(band, len(band)) for band in (*colours, opacity)])
    *bands, opacity = (resized(np.concatenate(band), SIDE) for band in zip(*strips, strict=True))
    covered = 255 * opacity.clip(0, 1)
    return np.stack([np.clip(band, 0, covered) + (255 - covered) for band in bands]).round().astype(np.uint8)


def _with_opacity(image: Image.Image) -> np.ndarray:
    """`image` as uint8 (height, width, 4)."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGBA"))


def _square(image: Image.Image) -> Image.Image:
    """The middle of `image`: ImageOps.fit without its half pixels, which golang.org/x/image does not have."""
    width, height = image.size
    size = min(width, height)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _decoded(image: Image.Image, data: bytes) -> Image.Image:
    """The middle square of `image`, upright."""
    tile = image.tile[0] if image.tile else None  # `load` clears it
    if kind := picture_kinds.unknown_to_go(image, tile, data):
        raise ImageError(f"no readable picture: {kind}")
    image.load()
    turn = None if image.format == "TIFF" else _turn(image)  # Pillow turns a TIFF as it loads it
    if image.format == "PNG" and "transparency" in image.info:
        image = _with_transparent_colour(image, tile, data)
    elif image.format == "GIF":
        image = _on_canvas(image, tile[1])
    return _square(image if turn is None else image.transpose(turn))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to set `image` upright. Broken EXIF data is no reason to refuse a picture."""
    image.info.pop("xmp", None)  # Pillow falls back to it, Go's reader does not
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:
        return None


def _with_transparent_colour(image: Image.Image, tile: Any, data: bytes) -> Image.Image:
    """A PNG with a transparent colour, where Pillow leaves it to us.

    Of 16 bits Pillow keeps the upper 8, and compares them with all 16 of the transparent colour; those of 1, 2 and 4
    bits it spreads to 8, but not the colour.
    """
    raw = tile[3] if tile else ""
    key = image.info["transparency"]
    if raw in ("1", "L;2", "L;4") and isinstance(key, int):
        image.info["transparency"] = key * {"1": 255, "L;2": 85, "L;4": 17}[raw]
        return image
    if raw == "RGB;16B":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as again:  # once more, for the lower bytes
            again.tile = [(*tile[:3], "RGB;16L")]
            low = np.asarray(again)
        high = np.asarray(image)
        opaque = np.zeros(high.shape[:2], bool)
        for channel, value in enumerate(key):
            opaque |= (high[..., channel] != value >> 8) | (low[..., channel] != value & 255)
    elif image.mode.startswith("I;16"):
        gray = np.asarray(image)
        opaque = gray != key
        high = np.repeat((gray >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    else:
        return image
    return Image.fromarray(np.dstack([high, opaque.astype(np.uint8) * 255]), "RGBA")


def _on_canvas(image: Image.Image, frame: tuple[int, int, int, int]) -> Image.Image:
    """A GIF's frame where it lies. What it does not cover is transparent, as browsers have it; Pillow fills it."""
    if frame == (0, 0, *image.size):
        return image
    canvas = Image.new("RGBA", image.size)
    canvas.paste(image.crop(frame).convert("RGBA"), frame[:2])
    return canvas
