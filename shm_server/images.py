"""PNG and JPEG files as the 32 x 32 pixels that the model sees.

The same picture as the Go client's ClassifyImage makes: the largest square in the middle, each of the 32 x 32 pixels
the average of the area that it covers, what is transparent white. Rotations that a camera only notes (EXIF) are not
carried out, as Go's decoders do not either.
"""

import io

import numpy as np
from PIL import Image

SIDE = 32
# Pixels of a picture. A few megabytes of PNG can unpack to gigabytes; this is 256 MiB, and more than most cameras have.
MAX_PIXELS = 1 << 26

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


class ImageError(ValueError):
    """A picture that cannot be read."""


class ImageTooLarge(ImageError):
    """A picture of more than MAX_PIXELS."""


def looks_like_image(data: bytes) -> bool:
    """Whether `data` begins as a PNG or a JPEG does."""
    return data.startswith(_SIGNATURES)


def pixels_from_image(data: bytes) -> np.ndarray:
    """The pixels of a PNG or JPEG file, uint8 (1, 3, 32, 32), planar RGB. Raises ImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageTooLarge(f"a picture of {width} x {height} pixels, at most {MAX_PIXELS} are taken")
            size = min(width, height)
            left, top = (width - size) // 2, (height - size) // 2
            square = _on_white(image.crop((left, top, left + size, top + size)))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(str(error)) from error
    except Exception as error:  # Pillow raises about anything at a broken file
        raise ImageError(f"no readable PNG or JPEG: {error}") from error
    return _averaged(np.asarray(square))[np.newaxis]


def _on_white(image: Image.Image) -> Image.Image:
    """`image` without transparency, in RGB."""
    if image.mode.startswith("I"):  # 16 bits of gray, which `convert` would cut off above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _averaged(square: np.ndarray) -> np.ndarray:
    """uint8 (size, size, 3) as (3, 32, 32), each pixel the exact average of the area that it covers.

    Pillow's BOX takes a pixel wholly or not at all, by its centre: at sizes near 32 that is another picture. Here
    lengths are counted in 1/32 of a pixel, so that every overlap is a whole number and float64 holds the sums exactly.
    """
    size = len(square)
    at, edge = np.arange(size) * SIDE, np.arange(SIDE)[:, np.newaxis] * size
    overlap = np.clip(np.minimum(at + SIDE, edge + size) - np.maximum(at, edge), 0, None).astype(float)
    rows = np.empty((SIDE, size, 3))
    for y, weights in enumerate(overlap):  # a strip at a time: nothing as large as the picture is made of float64
        covered = slice(y * size // SIDE, -(-(y + 1) * size // SIDE))
        np.einsum("h,hwc->wc", weights[covered], square[covered], out=rows[y])
    sums = (overlap @ rows).transpose(2, 0, 1)  # (32, size) @ (32, size, 3): y, x, channel
    return ((sums + size * size // 2) // (size * size)).astype(np.uint8, order="C")
