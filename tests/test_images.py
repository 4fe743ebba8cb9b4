"""Picture files as the server reads them; tests/test_same_pictures.py compares that with what Go reads."""

import hostile_pictures
import numpy as np
import pictures_of_all_kinds as kinds
import pytest
from picture_files import chunk, png, saved
from PIL import Image, ImageOps

from shm_server.gateways.images import CONTENT_TYPES, ImageError, ImageTooLarge, looks_like_image, pixels_from_image

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(11).integers(0, 256, shape, np.uint8)


def scene(width: int, height: int) -> Image.Image:
    """No symmetry: red from left to right, green from top to bottom, a blue corner."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    blue = 255 * ((red > 170) & (green < 85))
    return Image.fromarray(np.stack([red, green, blue], axis=2).astype(np.uint8))


def test_a_picture_of_the_models_own_size_is_not_changed_at_all():
    picture = noise(32, 32, 3)
    for format, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        got = pixels_from_image(saved(Image.fromarray(picture), format, **options))
        assert (got.dtype, got.shape) == (np.uint8, (1, 3, 32, 32))
        assert got.flags.c_contiguous
        assert got.flags.writeable
        assert (got[0] == picture.transpose(2, 0, 1)).all(), format


@pytest.mark.parametrize("size", [(64, 64), (100, 38), (38, 100), (501, 401), (8, 10), (1, 1)])
def test_any_size_is_its_middle_square_scaled_as_pillow_fits_it(size):
    picture = scene(*size)
    want = np.asarray(ImageOps.fit(picture, (32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(pixels_from_image(saved(picture, "PNG"))[0].astype(int) - want).mean() < 1


def test_what_is_transparent_is_white_and_what_is_half_is_half():
    clear = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    half = Image.new("RGBA", (40, 40), (0, 100, 200, 128))
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {}), ("GIF", {})):
        assert (pixels_from_image(saved(clear, format, **options)) == 255).all(), format
        if format != "GIF":
            got = pixels_from_image(saved(half, format, **options))[0]
            assert np.abs(got - np.array([127, 177, 227]).reshape(3, 1, 1)).max() <= 1, format


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_upright_however_it_is_stored(format):
    options = {"quality": 95} if format in ("JPEG", "WEBP") else {}
    picture = scene(75, 120)
    upright = pixels_from_image(saved(picture, format, **options))[0].astype(int)
    for orientation in range(1, 9):
        stored = kinds.turned(format, orientation, **options)(picture, None)
        assert np.abs(pixels_from_image(stored)[0] - upright).mean() < 2, orientation


def test_a_frame_of_a_gif_lies_on_a_white_canvas():
    got = pixels_from_image(kinds.gif_beside(Image.new("RGB", (64, 64), (200, 0, 0)), None))[0]
    assert (got[:, :, :3] == 255).all(), "left of the frame"
    assert (got[:, 16, 31] == [200, 0, 0]).all()


def test_a_colour_is_transparent_only_where_all_its_16_bits_are():
    samples = np.full((32, 32, 3), 0x1234, np.uint16)
    samples[:, 16:] ^= 1  # the same upper bytes
    key = chunk(b"tRNS", b"\x12\x34" * 3)
    got = pixels_from_image(png(samples, 16, 2, chunks=key))[0]
    assert (got[:, :, :16] == 255).all()
    assert (got[:, :, 16:] == 0x12).all()


@pytest.mark.parametrize(
    ("name", "data"), hostile_pictures.huge(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_picture_that_would_unpack_to_gigabytes_is_refused_before_it_does(name, data):
    with pytest.raises(ImageTooLarge, match="pixels"):
        pixels_from_image(data)


@pytest.mark.parametrize(
    ("name", "data"), hostile_pictures.broken(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_no_picture_is_an_image_error_of_one_line(name, data):
    with pytest.raises(ImageError) as error:
        pixels_from_image(data)
    assert len(str(error.value).splitlines()) == 1
    assert "0x" not in str(error.value), "no addresses of ours"


@pytest.mark.parametrize(
    ("name", "data"), hostile_pictures.odd_but_fair(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_odd_is_a_picture_all_the_same(name, data):
    assert pixels_from_image(data).shape == (1, 3, 32, 32)


def test_other_formats_are_not_opened_though_pillow_knows_them():
    for format in ("PPM", "PCX", "TGA", "ICO", "SGI"):
        with pytest.raises(ImageError):
            pixels_from_image(saved(Image.fromarray(noise(32, 32, 3)), format))


def test_pictures_are_told_from_pixels_by_how_they_begin():
    for format in FORMATS:
        assert looks_like_image(saved(Image.new("RGB", (2, 2)), format)), format
        assert f"image/{format.lower()}" in CONTENT_TYPES
    assert not looks_like_image(bytes(3072))
    assert not looks_like_image(b"BM" * 1536), "pixels may begin with these two"
