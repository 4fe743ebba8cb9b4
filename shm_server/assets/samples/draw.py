"""Draw the sample pictures of this folder, all but cat.png (its source is in README.md).

    python -m shm_server.assets.samples.draw

Each is drawn at four times its size and scaled down, so that edges are smooth. They are simple on purpose: after the
client has scaled them to 32x32 the network has little more than their shapes and colours.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIDE, OVERSAMPLING = 256, 4


class Canvas:
    """A picture with coordinates from 0 to 100 in both directions, the origin at the top left."""

    def __init__(self, top: tuple, bottom: tuple) -> None:
        side = SIDE * OVERSAMPLING
        gradient = Image.linear_gradient("L").resize((side, side))
        self.image = Image.composite(
            Image.new("RGB", (side, side), bottom), Image.new("RGB", (side, side), top), gradient
        )
        self.pen = ImageDraw.Draw(self.image)

    def _points(self, points: tuple) -> list:
        scale = SIDE * OVERSAMPLING / 100
        return [value * scale for value in points]

    def shape(self, colour: tuple, *points: float) -> None:
        self.pen.polygon(self._points(points), fill=colour)

    def oval(self, colour: tuple, *box: float) -> None:
        self.pen.ellipse(self._points(box), fill=colour)

    def save(self, path: Path) -> None:
        soft = self.image.filter(ImageFilter.GaussianBlur(OVERSAMPLING))
        soft.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(path, optimize=True)


def airplane() -> Canvas:
    c = Canvas((110, 165, 220), (200, 222, 240))
    body, shade, dark = (238, 240, 244), (176, 184, 198), (90, 98, 112)
    c.shape(shade, 46, 48, 66, 48, 42, 20, 34, 20)
    c.shape(body, 8, 52, 14, 46, 80, 43, 92, 46, 92, 50, 82, 56, 16, 58)
    c.shape(shade, 10, 55, 90, 51, 82, 56, 16, 58)
    c.shape(body, 76, 46, 90, 44, 96, 24, 89, 24)
    c.shape(dark, 40, 54, 62, 52, 34, 80, 26, 80)
    c.shape(shade, 78, 50, 90, 49, 98, 58, 92, 59)
    c.oval(dark, 32, 60, 44, 66)
    return c


def ship() -> Canvas:
    c = Canvas((168, 198, 226), (214, 226, 236))
    c.shape((46, 84, 122), 0, 62, 100, 60, 100, 100, 0, 100)
    c.shape((150, 34, 36), 8, 68, 92, 66, 86, 76, 16, 77)
    c.shape((36, 40, 52), 4, 54, 96, 51, 91, 68, 9, 70)
    c.shape((240, 240, 238), 24, 42, 78, 40, 80, 53, 22, 54)
    c.shape((226, 228, 230), 32, 32, 66, 31, 67, 42, 31, 42)
    c.shape((206, 90, 44), 44, 16, 54, 16, 54, 32, 44, 32)
    c.shape((60, 60, 66), 74, 18, 75.5, 18, 76, 41, 74, 41)
    for x in range(28, 74, 8):
        c.shape((70, 96, 128), x, 45, x + 4, 45, x + 4, 49, x, 49)
    c.shape((86, 124, 158), 0, 80, 100, 78, 100, 80, 0, 83)
    return c


def truck() -> Canvas:
    c = Canvas((186, 206, 226), (226, 230, 230))
    c.shape((122, 122, 124), 0, 74, 100, 74, 100, 100, 0, 100)
    c.shape((236, 236, 234), 6, 18, 66, 16, 66, 70, 6, 70)
    c.shape((206, 208, 210), 6, 62, 66, 62, 66, 70, 6, 70)
    c.shape((178, 30, 34), 68, 32, 84, 32, 94, 50, 95, 70, 68, 70)
    c.shape((62, 84, 106), 72, 36, 82, 36, 89, 50, 72, 50)
    c.shape((46, 46, 50), 4, 69, 96, 69, 96, 75, 4, 75)
    for x in (10, 26, 72):
        c.oval((26, 26, 28), x, 66, x + 16, 82)
        c.oval((150, 152, 156), x + 5, 71, x + 11, 77)
    return c


def automobile() -> Canvas:
    c = Canvas((200, 210, 216), (206, 206, 200))
    c.shape((128, 128, 130), 0, 66, 100, 66, 100, 100, 0, 100)
    red, dark = (190, 26, 30), (120, 14, 20)
    c.shape(red, 4, 54, 10, 46, 28, 44, 40, 30, 66, 29, 80, 43, 94, 47, 97, 66, 4, 68)
    c.shape((52, 66, 82), 33, 44, 42, 33, 52, 33, 52, 44)
    c.shape((52, 66, 82), 55, 44, 55, 33, 65, 33, 75, 44)
    c.shape(dark, 4, 60, 97, 58, 97, 67, 4, 69)
    c.shape((250, 240, 190), 90, 50, 95, 51, 95, 55, 90, 54)
    for x in (14, 68):
        c.oval((24, 24, 26), x, 56, x + 20, 76)
        c.oval((176, 178, 182), x + 6, 62, x + 14, 70)
    return c


PICTURES = (airplane, automobile, ship, truck)


def main() -> None:
    for picture in PICTURES:
        path = Path(__file__).with_name(f"{picture.__name__}.png")
        picture().save(path)
        print(f"drew {path}")


if __name__ == "__main__":
    main()
