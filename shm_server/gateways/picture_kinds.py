"""Which kinds of picture files both sides' libraries read: Pillow here, Go's and golang.org/x/image there.

Pillow reads more. What Go does not is refused here too, so that a file has the same answer, or none, on each way to
the model.
"""

import struct
from typing import Any

from PIL import Image

_TIFF_MODES = ("1", "L", "P", "RGB", "RGBA", "RGBX", "I;16", "I;16B", "I;16L", "I;16N")
_TIFF_COMPRESSIONS = (
    *("raw", "tiff_ccitt", "group3", "group4", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"),
)
_FULL_AND_HALF = ([(1, 1)] * 4, [(2, 2), (1, 1), (1, 1), (2, 2)])  # samples of cyan, magenta, yellow, black


def unknown_to_go(image: Image.Image, tile: Any, data: bytes) -> str:
    """What kind of picture `image` is that Go does not read, in words; "" if it does. `tile` is its first."""
    match image.format:
        case "WEBP":
            return "an animated WebP" if getattr(image, "is_animated", False) else ""
        case "JPEG" | "MPO":
            return _jpeg(image, data)
        case "BMP":
            plain = tile[0] == "raw" and tile[3][0] not in ("BGR;15", "BGR;16")
            return "" if plain else "a BMP with run lengths or 16 bits a pixel"
        case "TIFF":
            compression = image.info.get("compression")
            known = image.mode in _TIFF_MODES and compression in _TIFF_COMPRESSIONS
            return "" if known else f"a TIFF of mode {image.mode}, compressed by {compression}"
        case "GIF":
            within = image.size == struct.unpack("<HH", data[6:10])  # Pillow makes the canvas larger
            return "" if within else "a GIF whose first frame is larger than its canvas"
    return ""


def _jpeg(image: Any, data: bytes) -> str:
    samples = [(across, down) for _, across, down, _ in image.layer]
    if _start_of_frame(data) not in (0xC0, 0xC1, 0xC2):
        return "a JPEG with arithmetic coding"
    if len(samples) == 4:
        if "adobe" not in image.info:
            return "a JPEG of four colours that does not say which"
        return "" if samples in _FULL_AND_HALF else "a JPEG with unusual sampling"
    if len(samples) == 3:
        (across, down), blue, red = samples
        usual = across in (1, 2, 4) and down in (1, 2) and blue == red and across % blue[0] == down % blue[1] == 0
        return "" if usual else "a JPEG with unusual sampling"
    return ""


def _start_of_frame(data: bytes) -> int:
    """The marker that says how the JPEG is coded; 0 if there is none."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        # fill bytes before a marker are no segment
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return 0
