"""The Gemma engine: checkpoints of Google's open models on JAX. Here is what can be said before JAX is imported.

generator = load(checkpoint="gemma3-1b-it", tokenizer="tokenizer.model", chat=True)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from shm_server.generators.vocabulary import Vocabulary
from shm_server.models.errors import ModelError

if TYPE_CHECKING:
    from shm_server.generators.gemma_generator import GemmaGenerator

DEFAULT_CONTEXT = 1024
TEMPERATURE, TOP_K = 1.0, 64  # what Google recommends for Gemma 3


def load(
    checkpoint: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    *,
    architecture: str | None = None,
    chat: bool = False,
    context: int = DEFAULT_CONTEXT,
    threads: int = 1,
    name: str | None = None,
    note: str = "",
    temperature: float = TEMPERATURE,
    top_k: int = TOP_K,
) -> GemmaGenerator:
    """Loads the Orbax folder `checkpoint` and the SentencePiece model `tokenizer`, and compiles.

    Without them, the environment's MODEL_CHECKPOINT and MODEL_TOKENIZER. `architecture` is one of
    ARCHITECTURES (None: what the checkpoint's shapes say); `chat` wraps every prompt in the template of
    instruction-tuned checkpoints; `context` is how many tokens prompt and reply may have together.
    `temperature` and `top_k` are for callers that leave theirs open. Raises ModelError.
    """
    checkpoint = checkpoint or os.environ.get("MODEL_CHECKPOINT")
    tokenizer = tokenizer or os.environ.get("MODEL_TOKENIZER")
    if not checkpoint or not tokenizer:
        missing = "MODEL_CHECKPOINT (a checkpoint's folder)" if not checkpoint else "MODEL_TOKENIZER (its tokenizer)"
        raise ModelError(f'generator "gemma" needs {missing} in the environment, or the flag for it')
    vocabulary = Vocabulary(Path(tokenizer), chat=chat)

    from shm_server.generators import gemma_generator  # JAX takes seconds

    return gemma_generator.load(
        Path(checkpoint),
        vocabulary,
        Path(tokenizer),
        architecture=architecture,
        context=context,
        threads=threads,
        name=name,
        note=note,
        temperature=temperature,
        top_k=top_k,
    )
