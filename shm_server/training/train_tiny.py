"""Trains the bundled model: a small Gemma 3 that writes nonsense which looks like a play.

    python -m shm_server.training.train_tiny --output gemma-tiny

writes `gemma-tiny/checkpoint` (Orbax, the official flat layout, bfloat16), `gemma-tiny/tokenizer.model`
(SentencePiece) and `gemma-tiny/card.json`. About 12 minutes of one core.

The last twentieth of every work is held out before anything else happens, also from the tokenizer.
It decides nothing: the weights written are those of the last step, where the schedule has brought the
learning rate to zero. The loss on it is that of the files written, read back the way a server does.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shm_server.models.quiet import quiet_imports
from shm_server.training import corpus

if TYPE_CHECKING:
    import jax
    from gemma import gm

STEPS = 3600
SEED = 1
# Measured as training loss on the same number of tokens, 614,400: Adam 4.70, Muon 4.07, both with 16
# sequences a step; Muon with 8 sequences a step 3.99.
BATCH = 8
LENGTH = 128
LEARNING_RATE = 0.015  # Muon's, for the matrices of the layers
ADAM_LEARNING_RATE = 0.007  # Adam's, for the embeddings and the norms
WARM_UP = 0.05  # of the steps

PIECES = 2048
# The tokens that Gemma's own tokenizers have and this network was never taught: they make the file
# the same in kind. Line breaks are tokens there too.
SYMBOLS = ["<mask>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n"]

NOTE = "It writes nonsense that looks like a play by Shakespeare. It knows nothing and follows no instruction."
INTENDED_USE = f"Demonstrations, tests and benchmarks of the sidecar. {NOTE}"


def train(output: Path, *, texts: Path | None = None, steps: int = STEPS, seed: int = SEED) -> dict[str, Any]:
    """Trains, writes tokenizer, checkpoint and card to the folder `output`, and returns the card.

    `texts` is a folder of `*_gut.txt`, None for those of the package. Raises CorpusError, or OSError
    when `output` can not be written, before any training.
    """
    works = corpus.read_corpus(texts)
    training, held_out = corpus.split(works)
    output.mkdir(parents=True, exist_ok=True)

    with quiet_imports():
        import jax

        from shm_server.generators.architectures import GemmaTiny
        from shm_server.generators.checkpoint import Checkpoint, save_flat
        from shm_server.generators.vocabulary import Vocabulary

    (output / "tokenizer.model").write_bytes(train_tokenizer(training))
    vocabulary = Vocabulary(output / "tokenizer.model")
    tokens = np.array(vocabulary.encode(training), np.int32)
    print(f"{len(works)} works, {len(training):,} characters, {len(tokens):,} tokens to train on", flush=True)

    started, processor = time.monotonic(), time.process_time()
    params = fit(GemmaTiny(dtype=jax.numpy.float32), tokens, steps, seed)
    minutes, processor_minutes = (time.monotonic() - started) / 60, (time.process_time() - processor) / 60

    shutil.rmtree(output / "checkpoint", ignore_errors=True)
    save_flat(jax.tree.map(lambda array: array.astype(jax.numpy.bfloat16), params), output / "checkpoint")
    model = GemmaTiny()
    served = Checkpoint(output / "checkpoint").load(model)
    held_tokens = np.array(vocabulary.encode(held_out), np.int32)
    loss = held_out_loss(model, jax.tree.map(lambda array: array.astype(jax.numpy.float32), served), held_tokens)

    card = {
        "name": "gemma-tiny",
        "note": NOTE,
        "architecture": "Gemma 3 in small: 4 local layers of width 128, see shm_server/generators/architectures.py",
        "parameters": sum(array.size for array in jax.tree.leaves(served)),
        "vocabulary": f"SentencePiece, BPE, {vocabulary.size} pieces with byte fallback, learnt from the same corpus",
        "corpus": {
            "source": corpus.SOURCE,
            "version": version("shakespeare") if texts is None else "not stated",
            "licence": corpus.LICENCE if texts is None else "not stated",
            "works": len(works),
            "training_tokens": len(tokens),
            "held_out_tokens": len(held_tokens),
            "held_out": "the last twentieth of every work",
        },
        "held_out_loss": round(loss, 4),
        "held_out_loss_unit": "nats a token, of the files beside this card",
        "held_out_bits_per_character": round(loss * (len(held_tokens) - 1) / len(held_out) / math.log(2), 4),
        "training": {
            "optimizer": f"Muon {LEARNING_RATE:g} for matrices, Adam {ADAM_LEARNING_RATE:g} for the rest, cosine decay",
            "batch": f"{BATCH} sequences of {LENGTH} tokens",
            "steps": steps,
            "epochs": round(steps * BATCH * LENGTH / len(tokens), 2),
            "seed": seed,
            "minutes": round(minutes, 1),
            "processor_minutes": round(processor_minutes, 1),
            "weights": "those of the last step; the held-out text chose nothing",
            "date": datetime.date.today().isoformat(),
        },
        "sampling": {"temperature": 0.8, "top_k": 40},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("jax", "flax", "optax", "gemma", "sentencepiece", "orbax-checkpoint")},
        "licence": "Apache-2.0",
        "intended_use": INTENDED_USE,
    }
    (output / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def train_tokenizer(text: str) -> bytes:
    """A SentencePiece model of `text`, with Gemma's settings and its numbers for special tokens."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,  # 256 pieces, so that every text can be a prompt
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_digits=True,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=SYMBOLS,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def fit(model: gm.nn.Transformer, tokens: np.ndarray, steps: int, seed: int) -> dict[str, Any]:
    """Trains `model` on `tokens` and returns its weights. Prints a line every hundredth of the way."""
    import jax
    import optax

    params = model.init(jax.random.key(seed), np.ones((1, LENGTH), np.int32))["params"]
    optimizer = _optimizer(steps)
    state = optimizer.init(params)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        logits = model.apply({"params": params}, batch[:, :-1]).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    @jax.jit
    def advance(params: Any, state: Any, batch: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    started, recent = time.monotonic(), []
    every = max(1, steps // 100)
    for step, batch in zip(range(1, steps + 1), batches(tokens, seed), strict=False):
        params, state, value = advance(params, state, batch)
        recent.append(float(value))
        if step % every == 0 or step == steps:
            left = (time.monotonic() - started) / step * (steps - step) / 60
            print(f"step {step}/{steps}: loss {np.mean(recent):.3f}, {left:.1f} minutes left", flush=True)
            recent.clear()
    return params


def batches(tokens: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Endless int32 (BATCH, LENGTH + 1): each epoch cuts the text at other places, in another order.

    The first token is the beginning of text, as it is in every prompt.
    """
    rng = np.random.default_rng(seed)
    starts: list[int] = []
    while True:
        if len(starts) < BATCH:
            offset = int(rng.integers(LENGTH))
            starts = list(rng.permutation((len(tokens) - offset - 1) // LENGTH) * LENGTH + offset)
        batch = np.stack([tokens[start : start + LENGTH + 1] for start in (starts.pop() for _ in range(BATCH))])
        batch[:, 0] = tokens[0]
        yield batch


def held_out_loss(model: gm.nn.Transformer, params: dict[str, Any], tokens: np.ndarray) -> float:
    """Nats a token of `tokens` after its first.

    Each is predicted once, from between 128 and 255 tokens before it (the first 128 from fewer):
    windows overlap by half.
    """
    import jax
    import optax

    @jax.jit
    def losses(window: jax.Array) -> jax.Array:
        logits = model.apply({"params": params}, window[:, :-1]).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, window[:, 1:])

    total, end = 0.0, 0
    while end < len(tokens) - 1:
        start = max(0, min(end - LENGTH, len(tokens) - 1 - 2 * LENGTH))
        window = tokens[start : start + 2 * LENGTH + 1].copy()
        window[0] = tokens[0]
        of_window = np.asarray(losses(window[None]))[0]
        total += float(of_window[end - start :].sum())
        end = start + len(of_window)
    return total / (len(tokens) - 1)


def _optimizer(steps: int) -> Any:
    """Muon for the matrices of attention and feed-forward layers, Adam for everything else."""
    import jax
    import optax
    from optax.contrib import MuonDimensionNumbers, muon

    # Which axes of each weight are summed over and which are its output; the others are a stack.
    axes = {
        "q_einsum/w": ((1,), (0, 2)),
        "kv_einsum/w": ((2,), (3,)),
        "attn_vec_einsum/w": ((0, 1), (2,)),
        "mlp/gating_einsum": ((2,), (1,)),
        "mlp/linear": ((0,), (1,)),
    }

    def axes_of(keys: Any, _: Any) -> MuonDimensionNumbers | None:
        name = "/".join(key.key for key in keys[-2:])
        return MuonDimensionNumbers(*axes[name]) if name in axes else None

    def schedule(peak: float) -> Any:
        return optax.warmup_cosine_decay_schedule(0, peak, max(1, int(WARM_UP * steps)), max(2, steps))

    return muon(
        schedule(LEARNING_RATE),
        adam_learning_rate=schedule(ADAM_LEARNING_RATE),
        adam_b2=0.95,
        consistent_rms=0.2,  # updates as large as Adam's, so that learning rates compare
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(axes_of, params),
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def main(argv: list[str] | None = None) -> int:
    """`python -m shm_server.training.train_tiny`."""
    parser = argparse.ArgumentParser(
        prog="python -m shm_server.training.train_tiny", description="Train the bundled model."
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("gemma-tiny"), help="folder to write (default: %(default)s)")
    add("--texts", type=Path, metavar="DIR", help="folder of *_gut.txt (default: the package shakespeare)")
    add("--steps", type=_positive, default=STEPS, help="default: %(default)s")
    add("--seed", type=int, default=SEED, help="of weights and order (default: %(default)s)")
    add("--threads", type=_positive, default=1, help="default: %(default)s")
    args = parser.parse_args(argv)
    os.environ["NPROC"] = str(args.threads)  # XLA's thread pool, read when JAX starts up
    try:
        card = train(args.output, texts=args.texts, steps=args.steps, seed=args.seed)
    except ModuleNotFoundError as error:
        print(f'train_tiny: training needs {error.name}: pip install "shm-server[gemma]"', file=sys.stderr)
        return 1
    except (corpus.CorpusError, OSError) as error:
        print(f"train_tiny: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train_tiny: interrupted", file=sys.stderr)
        return 130  # what a shell gives a command that SIGINT ended
    print(f"held-out loss {card['held_out_loss']:.3f} nats a token, {card['parameters']:,} parameters")
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
