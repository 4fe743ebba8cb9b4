"""Labelled pictures to train on: read, split into training and held out, augmented.

pictures = read_pictures(Path("cifar10-train.zip"))
training, held = split(pictures, 0.1, rng)
pixels = augment(training.pixels, rng)                 # mirrored and shifted copies
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shm_server.models.keras_file import import_keras

SIDE = 32  # pixels; what a classifier takes is 3 x 32 x 32 bytes
SHIFT = 3  # pixels; a tenth of the picture: more cuts off what the label names
SUFFIXES = {".jpg", ".jpeg", ".png"}
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class DataError(Exception):
    """Data that can not be trained on.  Its text is one line: what is wrong and what to do."""


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures: `pixels` uint8 (n, 32, 32, 3), RGB; `labels` int64 (n,), indices into
    `class_names`; `source`, where they come from, in words."""

    pixels: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str

    def take(self, indices: np.ndarray) -> Pictures:
        """The pictures at `indices`, copied."""
        return Pictures(self.pixels[indices], self.labels[indices], self.class_names, self.source)


def read_pictures(data: Path) -> Pictures:
    """Reads `train/<class>/*.jpg|png` from a folder, from a zip, or from the one zip in a folder.

    Classes are the folders' names in alphabetical order.  Raises DataError when there is no such
    folder, fewer than two classes, a class without pictures, or a picture that is unreadable or not
    32x32.
    """
    root = _picture_root(data)
    folders = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: entry.name)
    if len(folders) < 2:
        raise DataError(f"{root}: {len(folders)} class folders, at least 2 are needed: train/<class>/*.jpg")
    pixels, labels, lossy = [], [], False
    for label, folder in enumerate(folders):
        files = [file for file in folder.iterdir() if _suffix(file) in SUFFIXES]
        if not files:
            raise DataError(f"{folder}: no .jpg or .png picture in it")
        for file in sorted(files, key=lambda file: file.name):
            pixels.append(_read_picture(file))
            labels.append(label)
        lossy = lossy or any(_suffix(file) != ".png" for file in files)
    names = tuple(folder.name for folder in folders)
    source = "CIFAR-10 (Krizhevsky, 2009)" if names == CIFAR10 else "pictures"
    source += f", {len(labels)} files of {Path(str(root)).resolve().parent.name}"
    if lossy:
        source += ", JPEG-compressed by whoever published them: accuracy is not exactly one on the original bytes"
    return Pictures(np.stack(pixels), np.array(labels), names, source)


def download_pictures() -> Pictures:
    """The 50,000 training pictures of keras.datasets.cifar10, downloaded once into ~/.keras."""
    keras = import_keras("tensorflow")

    try:
        (pixels, labels), _ = keras.datasets.cifar10.load_data()
    except Exception as error:  # Keras raises a plain Exception when the download fails.
        raise DataError(f"CIFAR-10 can not be downloaded, give --data DIR: {error}") from error
    source = f"CIFAR-10 (Krizhevsky, 2009), {len(labels)} pictures of keras.datasets.cifar10"
    return Pictures(pixels, labels[:, 0].astype(np.int64), CIFAR10, source)


def split(pictures: Pictures, fraction: float, rng: np.random.Generator) -> tuple[Pictures, Pictures]:
    """Splits into (training, held out): `fraction` of every class is held out, chosen by `rng`.

    A picture whose very pixels are held out as well, under whatever label, is left out of training.
    Raises DataError for a class with too few pictures.
    """
    held = np.zeros(len(pictures.labels), bool)
    for label, name in enumerate(pictures.class_names):
        members = rng.permutation(np.flatnonzero(pictures.labels == label))
        count = round(fraction * len(members))
        if not 0 < count < len(members):
            raise DataError(f"class {name}: {len(members)} pictures, too few to hold {fraction:g} of them out")
        held[members[:count]] = True
    held_bytes = {picture.tobytes() for picture in pictures.pixels[held]}
    trainable = [picture.tobytes() not in held_bytes for picture in pictures.pixels]
    return pictures.take(np.flatnonzero(trainable)), pictures.take(np.flatnonzero(held))


def augment(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Copies of the pictures, uint8 (n, 32, 32, 3), each mirrored half of the time and shifted by up to
    SHIFT pixels each way, the border filled with its own reflection."""
    padded = np.pad(pixels, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(1, 2))
    down, right = rng.integers(0, 2 * SHIFT + 1, (2, len(pixels)))
    crops = windows[np.arange(len(pixels)), down, right].transpose(0, 2, 3, 1)  # windows are (n, 3, 32, 32)
    mirrored = rng.random(len(pixels)) < 0.5
    crops[mirrored] = crops[mirrored, :, ::-1]
    return crops


def unit_range(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels as float32 in [0, 1], what the network takes."""
    return np.ascontiguousarray(pixels, np.float32) / 255


def _suffix(file: Path | zipfile.Path) -> str:
    return Path(file.name).suffix.lower()


def _picture_root(data: Path) -> Path | zipfile.Path:
    """The folder `train` of `data`.  A zip's folder is walked with the same methods as a real one."""
    if not data.exists():
        raise DataError(f"{data}: no such folder or zip file")
    if (data / "train").is_dir():
        return data / "train"
    archives = sorted(data.glob("*.zip")) if data.is_dir() else [data]
    if len(archives) != 1:
        raise DataError(f"{data}: must hold train/<class>/*.jpg, or one zip of that; it holds {len(archives)} zips")
    try:
        root = zipfile.Path(archives[0]) / "train"
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archives[0]}: not a zip file: {error}") from error
    if not root.is_dir():
        raise DataError(f"{archives[0]}: no train/<class>/*.jpg in it")
    return root


def _read_picture(file: Path | zipfile.Path) -> np.ndarray:
    """One picture, uint8 (32, 32, 3)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file.read_bytes())) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable picture") from error
    if pixels.shape != (SIDE, SIDE, 3):
        raise DataError(f"{file}: {pixels.shape[1]}x{pixels.shape[0]} pixels, must be {SIDE}x{SIDE}")
    return pixels
