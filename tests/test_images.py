"""Picture files become the pixels that the Go client would make of them: exact averages, rounded."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from shm_server import images
from shm_server.images import ImageError, ImageTooLarge, looks_like_image, pixels_from_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def averaged(rgb: np.ndarray) -> np.ndarray:
    """The middle square of a float (height, width, 3) picture, area-averaged by two matrix products: (3, 32, 32)."""
    height, width, _ = rgb.shape
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    square = rgb[top : top + size, left : left + size]
    edges, step = np.arange(size), size / 32
    weights = np.array(
        [np.clip(np.minimum(edges + 1, (i + 1) * step) - np.maximum(edges, i * step), 0, None) for i in range(32)]
    )
    return np.einsum("yh,xw,hwc->cyx", weights / step, weights / step, square)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(11).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    "size", [(32, 32), (33, 32), (32, 47), (64, 64), (100, 37), (37, 101), (501, 400), (7, 9), (1, 1)]
)
def test_any_size_is_its_middle_square_averaged(size):
    picture = noise(size[1], size[0], 3)
    got = pixels_from_image(encoded(Image.fromarray(picture)))
    assert (got.dtype, got.shape) == (np.uint8, (1, 3, 32, 32))
    assert got.flags.c_contiguous
    assert got.flags.writeable
    assert np.abs(got[0] - averaged(picture.astype(float))).max() <= 0.5001  # rounded, and nothing else


def test_a_picture_of_the_models_own_size_is_not_changed_at_all():
    picture = noise(32, 32, 3)
    assert (pixels_from_image(encoded(Image.fromarray(picture)))[0] == picture.transpose(2, 0, 1)).all()


def test_what_is_transparent_is_white_and_what_is_half_is_half():
    picture = noise(50, 50, 4)
    alpha = picture[..., 3:] / 255
    want = averaged(picture[..., :3] * alpha + 255 * (1 - alpha))
    assert np.abs(pixels_from_image(encoded(Image.fromarray(picture)))[0] - want).max() <= 1
    clear = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    assert (pixels_from_image(encoded(clear)) == 255).all()


def test_gray_palettes_transparent_colours_and_16_bits_are_understood():
    gray = noise(32, 32)
    want = np.broadcast_to(gray, (3, 32, 32))
    assert (pixels_from_image(encoded(Image.fromarray(gray)))[0] == want).all()
    deep = gray.astype(np.uint16) << 8 | 0x7F
    assert (pixels_from_image(encoded(Image.fromarray(deep)))[0] == want).all()
    palette = Image.fromarray(gray // 64)
    palette = palette.convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120] + [0] * 756)
    got = pixels_from_image(encoded(palette, transparency=0))[0]
    table = np.array([[255, 255, 255], [40, 50, 60], [70, 80, 90], [100, 110, 120]])
    assert (got == table[gray // 64].transpose(2, 0, 1)).all()


def test_a_jpeg_is_decoded_and_its_rotation_note_ignored():
    picture = Image.linear_gradient("L").convert("RGB")  # black on top
    exif = Image.Exif()
    exif[0x0112] = 3  # "turned by 180 degrees"
    got = pixels_from_image(encoded(picture, "JPEG", quality=95, exif=exif))[0]
    assert np.abs(got - averaged(np.asarray(picture, float))).max() <= 4
    assert got[0, 0].mean() < got[0, -1].mean()


WHOLE = encoded(Image.fromarray(noise(32, 32, 3)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        WHOLE[:8],
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:100] + bytes(1000),
        b"\xff\xd8\xff" + bytes(99),
    ],
)
def test_what_is_no_picture_is_an_image_error(data):
    with pytest.raises(ImageError):
        pixels_from_image(data)


def test_other_formats_are_not_opened_though_pillow_knows_them():
    for kind in ("GIF", "BMP", "TIFF"):
        with pytest.raises(ImageError):
            pixels_from_image(encoded(Image.fromarray(noise(32, 32, 3)), kind))


def test_a_picture_that_would_unpack_to_gigabytes_is_refused_before_it_does():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = (50_000).to_bytes(4, "big") + (50_000).to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageTooLarge):
        pixels_from_image(bomb)
    fair = encoded(Image.new("1", (9000, 8000)))
    assert images.MAX_PIXELS < 9000 * 8000
    with pytest.raises(ImageTooLarge, match="9000 x 8000 pixels, at most"):
        pixels_from_image(fair)


def test_a_signature_tells_pictures_from_pixels():
    assert looks_like_image(WHOLE)
    assert looks_like_image(encoded(Image.new("RGB", (2, 2)), "JPEG"))
    assert not looks_like_image(bytes(3072))
