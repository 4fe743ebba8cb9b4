"""The bundled model, so that everything can be tried at once: Gemma in small, see `train_tiny`.

It is loaded like any other checkpoint. It writes nonsense that looks like a play, and says so in
its `note`.
"""

from __future__ import annotations

import json
from importlib import resources

from shm_server.generators import gemma


def load(*, context: int = gemma.DEFAULT_CONTEXT, threads: int = 1) -> gemma.GemmaGenerator:
    """Loads the bundled checkpoint and compiles; the options are those of `gemma.load`."""
    with resources.as_file(resources.files("shm_server.assets")) as assets:
        folder = assets / "gemma-tiny"
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        return gemma.load(
            folder / "checkpoint",
            folder / "tokenizer.model",
            context=context,
            threads=threads,
            name=card["name"],
            note=card["note"],
            **card["sampling"],
        )
