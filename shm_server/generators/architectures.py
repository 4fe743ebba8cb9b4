"""The Gemma architectures that can be served, and how a checkpoint's shapes tell which one it has.

    name = recognise(shapes)               # shapes: the nested tree of a checkpoint -> "gemma3-1b"
    model = build(name)

A checkpoint holds weights and not a word about their network. The shapes give its sizes; the rest
(windows, frequencies, soft caps) is looked up, which works because no two architectures share their
sizes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from gemma import gm

from shm_server.models.errors import ModelError


class GemmaTiny(gm.nn.Transformer):
    """The bundled model: Gemma 3 in small, a million parameters.

    Four layers of Gemma 3's pattern are all local. A window of 64 in training sequences of 128 means
    that half of the training positions see a full window, so a text of any length looks familiar.
    """

    config: gm.nn.config.TransformerConfig = gm.nn.config.TransformerConfig(
        num_embed=2048,
        embed_dim=128,
        hidden_dim=384,
        num_heads=4,
        head_dim=32,
        num_kv_heads=1,
        final_logit_softcap=None,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        use_qk_norm=True,
        attention_types=gm.nn.config.make_attention_layers_types(gm.nn.config.GEMMA3_ATTENTION_PATTERN, num_layers=4),
        sliding_window_size=64,
        transpose_gating_einsum=True,
        local_base_frequency=10_000,
        global_base_frequency=1_000_000,
    )


ARCHITECTURES: dict[str, type[gm.nn.Transformer]] = {
    "gemma-tiny": GemmaTiny,
    "gemma2-2b": gm.nn.Gemma2_2B,
    "gemma2-9b": gm.nn.Gemma2_9B,
    "gemma2-27b": gm.nn.Gemma2_27B,
    "gemma3-270m": gm.nn.Gemma3_270M,
    "gemma3-1b": gm.nn.Gemma3_1B,
    "gemma3-4b": gm.nn.Gemma3_4B,
    "gemma3-12b": gm.nn.Gemma3_12B,
    "gemma3-27b": gm.nn.Gemma3_27B,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What shapes tell of a network, and what tells the architectures apart."""

    vocabulary: int
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    qk_norm: bool

    def __str__(self) -> str:
        return (
            f"{self.layers} layers of width {self.width} with {self.heads} heads ({self.kv_heads} for keys), "
            f"vocabulary {self.vocabulary}"
        )


def build(name: str) -> gm.nn.Transformer:
    """The network called `name` in ARCHITECTURES, for text only. Raises ModelError for another name."""
    if name not in ARCHITECTURES:
        raise ModelError(f'unknown architecture "{name}": there are {", ".join(ARCHITECTURES)}')
    architecture = ARCHITECTURES[name]
    # From 4B on the networks also see pictures, which prompts have none of.
    return architecture(text_only=True) if architecture.config.vision_encoder else architecture()


def recognise(shapes: dict[str, Any]) -> str:
    """The name in ARCHITECTURES of the network that a nested tree of shapes belongs to.

    Raises ModelError when it belongs to none.
    """
    try:
        sizes = sizes_of_shapes(shapes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"not the weights of a Gemma 2 or 3 network: no {error}") from error
    for name, architecture in ARCHITECTURES.items():
        if sizes_of_config(architecture.config) == sizes:
            return name
    raise ModelError(f"no known architecture has {sizes}: there are {', '.join(ARCHITECTURES)}")


def sizes_of_config(config: gm.nn.config.TransformerConfig) -> Sizes:
    """The sizes that a network of `config` has."""
    return Sizes(
        vocabulary=config.num_embed,
        layers=config.num_layers,
        width=config.embed_dim,
        hidden=config.hidden_dim,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_width=config.head_dim,
        qk_norm=config.use_qk_norm,
    )


def sizes_of_shapes(shapes: dict[str, Any]) -> Sizes:
    """The sizes of the network whose weights have these shapes. KeyError names what is missing."""
    vocabulary, width = shapes["embedder"]["input_embedding"].shape
    layer = shapes["layer_0"]
    attention = layer["attn"]
    heads, head_width, _ = attention["attn_vec_einsum"]["w"].shape
    # As many key heads as query heads: one matrix for queries, keys and values.
    kv_heads = heads if "qkv_einsum" in attention else attention["kv_einsum"]["w"].shape[1]
    return Sizes(
        vocabulary=vocabulary,
        layers=sum(name.startswith("layer_") for name in shapes),
        width=width,
        hidden=layer["mlp"]["linear"].shape[0],
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        qk_norm="_query_norm" in attention,
    )
