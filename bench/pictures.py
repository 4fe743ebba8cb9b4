"""Pictures to classify: views of the bundled samples, each cut, mirrored, tinted and grained differently."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from .engine_limit import EngineProcess

COUNT = 64
# Batches of different sizes are computed in different orders, so scores differ in their last bits. A picture whose two
# best classes are closer than this might change its label for that reason alone, and is not used.
MARGIN = 0.02
CANDIDATES = 4 * COUNT


def make(seed: int, directory: Path, engine: EngineProcess | None) -> tuple[Path, Path, dict[str, int]]:
    """Write COUNT pictures and the labels that the engine gives them in process; how often each label comes up."""
    pictures, labels = directory / "pictures.bin", directory / "labels.json"
    candidates = views(seed)
    if engine is None:
        candidates[:COUNT].tofile(pictures)
        labels.write_text(json.dumps([""] * COUNT))
        return pictures, labels, {}
    candidates.tofile(pictures)
    answer = engine.labels(pictures)
    clear = [i for i, margin in enumerate(answer["margins"]) if margin >= MARGIN][:COUNT]
    if len(clear) < COUNT:
        raise RuntimeError(f"only {len(clear)} of {CANDIDATES} pictures have a clear label; {COUNT} are needed")
    candidates[clear].tofile(pictures)
    names = [answer["labels"][i] for i in clear]
    if engine.labels(pictures)["labels"] != names:
        raise RuntimeError("the engine labels the same pictures differently at a second time")
    labels.write_text(json.dumps(names))
    return pictures, labels, {name: names.count(name) for name in sorted(set(names))}


def views(seed: int) -> np.ndarray:
    """CANDIDATES pictures, uint8 (n, 3, 32, 32)."""
    random = np.random.default_rng(seed)
    folder = resources.files("shm_server.assets") / "samples"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".png")), key=lambda file: file.name)
    samples = []
    for file in files:
        with file.open("rb") as opened, Image.open(opened) as image:
            samples.append(image.convert("RGB"))
    return np.stack([_view(samples[i % len(samples)], random) for i in range(CANDIDATES)])


def _view(image: Image.Image, random: np.random.Generator) -> np.ndarray:
    size = int(min(image.size) * random.uniform(0.5, 1.0))
    left, top = (int(random.integers(0, room - size + 1)) for room in image.size)
    cut = image.crop((left, top, left + size, top + size)).resize((32, 32), Image.Resampling.BOX)
    pixels = np.asarray(cut, np.float32).transpose(2, 0, 1)
    if random.random() < 0.5:
        pixels = pixels[:, :, ::-1]
    pixels = pixels * random.uniform(0.7, 1.2, (3, 1, 1)) + random.normal(0, 6, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)
