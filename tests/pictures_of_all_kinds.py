"""Writes 200 and more pictures of every format, mode, size and orientation: pictures_of_all_kinds.py FOLDER [SEED].

They show views of the bundled samples.
"""

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from picture_files import chunk, png, saved, tiff
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[1] / "shm_server" / "assets" / "samples"
SIZES = [
    *((32, 32), (256, 256), (33, 32), (48, 61), (200, 133), (97, 97)),
    *((480, 270), (45, 32), (300, 301), (64, 64), (640, 480), (31, 31)),
]
Kind = Callable[[Image.Image, np.random.Generator], bytes]


def make(folder: Path, seed: int) -> list[Path]:
    """The files, each named by its kind."""
    random = np.random.default_rng(seed)
    files = []
    for name, kind in kinds():
        for _ in range(2):
            size = SIZES[len(files) % len(SIZES)]
            file = folder / f"{len(files):03}-{size[0]}x{size[1]}-{name}"
            file.write_bytes(kind(view(size, random), random))
            files.append(file)
    return files


def view(size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A part of a sample, RGB, whose middle square shows most of it: mirrored and tinted at random."""
    names = sorted(SAMPLES.glob("*.png"))
    sample = Image.open(names[random.integers(len(names))]).convert("RGB")
    small = int(min(sample.size) * random.uniform(0.85, 1.0))
    left, top = (int(random.integers(0, room - small + 1)) for room in sample.size)
    square = sample.crop((left, top, left + small, top + small))
    if random.random() < 0.5:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    inner = min(size)
    whole = square.resize(size, Image.Resampling.BICUBIC)  # what lies beside the square
    whole.paste(
        square.resize((inner, inner), Image.Resampling.BICUBIC), ((size[0] - inner) // 2, (size[1] - inner) // 2)
    )
    tinted = np.asarray(whole) * random.uniform(0.9, 1.1, 3)
    return Image.fromarray(tinted.clip(0, 255).astype(np.uint8))


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


# Stored as orientation 1 to 8 says, so that the picture is the same when it is upright.
STORED = [
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_270,
]


def turned(format: str, orientation: int, **options) -> Kind:
    def kind(image: Image.Image, random: np.random.Generator) -> bytes:
        turn = STORED[orientation - 1]
        return saved(image if turn is None else image.transpose(turn), format, exif=exif(orientation), **options)

    return kind


def pillow(format: str, mode: str = "RGB", **options) -> Kind:
    return lambda image, random: saved(image.convert(mode), format, **options)


def see_through(image: Image.Image, random: np.random.Generator, levels: int = 256) -> Image.Image:
    """`image` with an edge that fades out, in so many levels."""
    width, height = image.size
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, np.newaxis]
    opacity = np.clip(3.2 - 2.4 * np.hypot(x, y), 0, 1)
    opacity = np.round(opacity * (levels - 1)) / (levels - 1)
    image = image.copy()
    image.putalpha(Image.fromarray((opacity * 255).astype(np.uint8)))
    return image


def alpha(format: str, mode: str = "RGBA", levels: int = 256, **options) -> Kind:
    return lambda image, random: saved(see_through(image, random, levels).convert(mode), format, **options)


# -- PNG


def deep(image: Image.Image, random: np.random.Generator) -> np.ndarray:
    """16 bits of each sample, the lower ones at random."""
    samples = np.asarray(image).astype(np.uint16)
    samples = samples[..., np.newaxis] if samples.ndim == 2 else samples
    return samples << 8 | random.integers(0, 256, samples.shape, np.uint16)


def png_deep(mode: str, colour: int, interlaced: bool = False) -> Kind:
    def kind(image: Image.Image, random: np.random.Generator) -> bytes:
        source = see_through(image, random) if mode.endswith("A") else image
        return png(deep(source.convert(mode), random), 16, colour, interlaced=interlaced)

    return kind


def png_few_bits(depth: int, interlaced: bool = False) -> Kind:
    def kind(image: Image.Image, random: np.random.Generator) -> bytes:
        gray = np.asarray(image.convert("L"))[..., np.newaxis] >> (8 - depth)
        return png(gray, depth, 0, interlaced=interlaced)

    return kind


def png_keyed(mode: str, depth: int, interlaced: bool = False) -> Kind:
    """A corner has the transparent colour; with 16 bits, other pixels share its upper bytes and must not vanish."""

    def kind(image: Image.Image, random: np.random.Generator) -> bytes:
        image = image.convert(mode)
        if depth == 16:
            samples = deep(image, random)
        else:
            samples = np.asarray(image).reshape(image.height, image.width, -1) >> (8 - depth)
        third = max(1, min(image.size) // 3)
        key = samples[0, 0].copy()
        samples = samples.copy()
        samples[:third, image.width // 2 :] = key
        if depth == 16:
            samples[-third:, image.width // 2 :] = key ^ 1
        chunks = chunk(b"tRNS", key.astype(">u2").tobytes())
        return png(samples, depth, 0 if mode == "L" else 2, chunks=chunks, interlaced=interlaced)

    return kind


def png_palette(colours: int, **options) -> Kind:
    return lambda image, random: saved(image.quantize(colours), "PNG", **options)


def png_profile(image: Image.Image, random: np.random.Generator) -> bytes:
    """Gamma and a profile, which nobody looks at."""
    return png(np.asarray(image), 8, 2, chunks=chunk(b"gAMA", struct.pack(">I", 220000)) + chunk(b"sRGB", b"\0"))


def animated(format: str, **options) -> Kind:
    def kind(image: Image.Image, random: np.random.Generator) -> bytes:
        others = [Image.new("RGB", image.size, colour) for colour in ("red", "blue")]
        return saved(image, format, save_all=True, append_images=others, **options)

    return kind


def ycck(image: Image.Image, random: np.random.Generator) -> bytes:
    """Four colours, of which three are a brightness and two colours: made by saying so."""
    data = bytearray(
        saved(Image.merge("CMYK", [*image.convert("YCbCr").split(), Image.new("L", image.size, 20)]), "JPEG")
    )
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


# -- GIF


def gif_beside(image: Image.Image, random: np.random.Generator, **options) -> bytes:
    """A frame that does not cover the canvas."""
    frame = image.resize((max(1, image.width * 7 // 8), max(1, image.height * 7 // 8))).quantize(200)
    data = bytearray(saved(frame, "GIF", **options))
    colours = 13 + 3 * (2 << (data[10] & 7))
    at = data.index(b",", colours)
    data[6:10] = struct.pack("<HH", *image.size)
    data[11] = 3  # the background's colour, which nobody shows
    data[at + 1 : at + 5] = struct.pack("<HH", image.width - frame.width, (image.height - frame.height) // 2)
    return bytes(data)


def gif_transparent(image: Image.Image, random: np.random.Generator) -> bytes:
    frame = image.quantize(255)
    pixels = np.asarray(frame).copy()
    pixels[: max(1, image.height // 3), image.width // 2 :] = 255
    keyed = Image.fromarray(pixels, "P")
    keyed.putpalette(frame.getpalette() + [0] * (768 - len(frame.getpalette())))
    return saved(keyed, "GIF", transparency=255)


# -- TIFF


def tiff_by_hand(mode: str, deep_: bool, order: str, **options) -> Kind:
    def kind(image: Image.Image, random: np.random.Generator) -> bytes:
        source = (see_through(image, random) if mode == "RGBA" else image).convert(mode)
        samples = deep(source, random) if deep_ else np.asarray(source)
        return tiff(samples.reshape(image.height, image.width, -1), order=order, **options)

    return kind


def kinds() -> Iterator[tuple[str, Kind]]:
    """Names, with their suffix, and how such a file is made."""
    yield "rgb.png", pillow("PNG")
    yield "gray.png", pillow("PNG", "L")
    yield "bilevel.png", pillow("PNG", "1")
    yield "alpha.png", alpha("PNG")
    yield "alpha-two-levels.png", alpha("PNG", levels=2)
    yield "gray-alpha.png", alpha("PNG", "LA")
    for colours in (256, 16, 4, 2):
        yield f"palette-{colours}.png", png_palette(colours)
    yield "palette-one-transparent.png", png_palette(64, transparency=3)
    yield "palette-alphas.png", png_palette(64, transparency=bytes(range(0, 256, 4)))
    for depth in (1, 2, 4, 8):
        yield f"gray-{depth}-interlaced.png", png_few_bits(depth, interlaced=True)
        yield f"gray-{depth}-key.png", png_keyed("L", depth)
    yield "rgb-key.png", png_keyed("RGB", 8)
    for interlaced in (False, True):
        how = "-interlaced" if interlaced else ""
        yield f"rgb16{how}.png", png_deep("RGB", 2, interlaced)
        yield f"rgba16{how}.png", png_deep("RGBA", 6, interlaced)
        yield f"gray16{how}.png", png_deep("L", 0, interlaced)
        yield f"gray-alpha16{how}.png", png_deep("LA", 4, interlaced)
        yield f"rgb16-key{how}.png", png_keyed("RGB", 16, interlaced)
        yield f"gray16-key{how}.png", png_keyed("L", 16, interlaced)
    yield "profile.png", png_profile
    yield "animated.png", animated("PNG")
    for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
        yield f"{name}.jpg", pillow("JPEG", quality=90, subsampling=subsampling)
        yield f"{name}-progressive.jpg", pillow("JPEG", quality=75, subsampling=subsampling, progressive=True)
    yield "gray.jpg", pillow("JPEG", "L")
    yield "cmyk.jpg", pillow("JPEG", "CMYK", quality=90)
    yield "ycck.jpg", ycck
    yield "rgb.jpg", pillow("JPEG", keep_rgb=True)
    yield "restarts.jpg", pillow("JPEG", restart_marker_rows=1)
    yield "coarse.jpg", pillow("JPEG", quality=25)
    yield "rgb.gif", pillow("GIF")
    yield "gray.gif", pillow("GIF", "L")
    yield "interlaced.gif", pillow("GIF", interlace=1)
    yield "transparent.gif", gif_transparent
    yield "beside.gif", gif_beside
    yield "animated.gif", animated("GIF", duration=100)
    yield "lossy.webp", pillow("WEBP", quality=90)
    yield "coarse.webp", pillow("WEBP", quality=30)
    yield "lossless.webp", pillow("WEBP", lossless=True)
    yield "alpha.webp", alpha("WEBP", quality=90)
    yield "alpha-lossless.webp", alpha("WEBP", lossless=True)
    yield "rgb.bmp", pillow("BMP")
    yield "gray.bmp", pillow("BMP", "L")
    yield "palette.bmp", lambda image, random: saved(image.quantize(256), "BMP")
    yield "bilevel.bmp", pillow("BMP", "1")
    yield "alpha.bmp", alpha("BMP")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield f"{compression}.tif", pillow("TIFF", compression=compression)
    for compression in ("group3", "group4"):
        yield f"{compression}.tif", pillow("TIFF", "1", compression=compression)
    yield "gray.tif", pillow("TIFF", "L", compression="tiff_lzw")
    yield "palette.tif", lambda image, random: saved(image.quantize(256), "TIFF")
    yield "alpha.tif", alpha("TIFF", compression="tiff_lzw")
    for order, name in (("<", "little"), (">", "big")):
        yield f"rgb-{name}.tif", tiff_by_hand("RGB", False, order)
        yield f"rgb16-{name}.tif", tiff_by_hand("RGB", True, order)
        yield f"rgba16-{name}.tif", tiff_by_hand("RGBA", True, order, extra=2)
        yield f"gray16-{name}.tif", tiff_by_hand("L", True, order, photometric=1)
        yield f"inverted-{name}.tif", tiff_by_hand("L", False, order, photometric=0)
    for orientation in range(1, 9):
        yield f"turned-{orientation}.jpg", turned("JPEG", orientation, quality=92)
        yield f"turned-{orientation}.png", turned("PNG", orientation)
        yield f"turned-{orientation}.webp", turned("WEBP", orientation, quality=92)
        yield f"turned-{orientation}.tif", turned("TIFF", orientation)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    print(len(make(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 8)), "pictures in", folder)
