"""Gemma checkpoints on disk: Orbax folders, in the official flat layout or in the nested one.

checkpoint = Checkpoint(Path("gemma3-1b-it"))
model = build(checkpoint.architecture)
params = checkpoint.load(model)

nested   {"layer_0": {"attn": {"q_einsum": {"w": ...}}}}          what the network itself uses
flat     {"transformer/layer_0/attn/q_einsum": {"w": ...}}        what Google publishes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from gemma import gm

from shm_server.generators.architectures import recognise
from shm_server.models.errors import ModelError

# Every Orbax checkpoint has one of these, its older ones the latter only.
MARKS = ("_METADATA", "_CHECKPOINT_METADATA")


class Checkpoint:
    """A checkpoint whose shapes are known and whose weights are not loaded yet."""

    def __init__(self, path: Path, architecture: str | None = None):
        """Reads the shapes at `path`. `architecture` is a name in ARCHITECTURES, None to recognise it.

        Raises ModelError: no folder, no checkpoint, no known architecture.
        """
        self.path = path.absolute()  # Orbax takes no other
        if not path.is_dir():
            raise ModelError(f"{path}: no such checkpoint folder")
        if not any((path / mark).exists() for mark in MARKS):
            raise ModelError(f"{path}: not an Orbax checkpoint, which is a folder with {MARKS[0]} in it")
        try:
            self._shapes = _shapes(self.path)
        except Exception as error:  # Orbax lets through what JSON, TensorStore and the file system raise
            raise ModelError(f"{path}: not a checkpoint that Orbax can read: {_first_line(error)}") from error
        try:
            self.architecture = architecture or recognise(self._shapes)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        """A name in ARCHITECTURES."""

    def load(self, model: gm.nn.Transformer) -> dict[str, Any]:
        """The weights of `model`, nested.

        Raises ModelError when the checkpoint is of another network, or damaged.
        """
        self._check(model)
        try:
            params = gm.ckpts.load_params(self.path, text_only="vision_encoder" in self._shapes)
        except Exception as error:
            raise ModelError(f"{self.path}: weights can not be read: {_first_line(error)}") from error
        return params

    def _check(self, model: gm.nn.Transformer) -> None:
        """Compares shapes before gigabytes are read."""
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        wanted = _by_path(jax.eval_shape(model.init, jax.random.key(0), tokens)["params"])
        found = _by_path(self._shapes)
        for path, shape in wanted.items():
            if found.get(path) != shape:
                has = f"has {found[path]}" if path in found else "lacks it"
                raise ModelError(f"{self.path}: {self.architecture} needs {path} of {shape}, the checkpoint {has}")


def save_flat(params: dict[str, Any], path: Path) -> None:
    """Writes nested weights as a checkpoint in the official flat layout. `path` must not exist."""
    gm.ckpts.save_params(flatten(params), path.absolute(), wait_until_finished=True)


def flatten(params: dict[str, Any]) -> dict[str, Any]:
    """Nested weights in the flat layout: one level of paths, one of the last names; `mlp` gets a 'w'."""
    flat: dict[str, Any] = {}
    for keys, array in jax.tree_util.tree_leaves_with_path(params):
        names = ["transformer", *(key.key for key in keys)]
        if names[-2] == "mlp":
            names.append("w")
        flat.setdefault("/".join(names[:-1]), {})[names[-1]] = array
    return flat


def _shapes(path: Path) -> dict[str, Any]:
    """The nested tree of shapes of the checkpoint at `path`, whatever its layout."""
    with ocp.StandardCheckpointer() as reader:
        item = reader.metadata(path).item_metadata
        if item is None:
            raise ValueError("no weights in it")
    tree = item.tree
    if not all("/" in name for name in tree):
        return tree.get("params", tree)  # Kauldron's trainer keeps weights beside the optimizer's state
    nested: dict[str, Any] = {}
    for name, leaves in tree.items():
        prefix, *names = name.split("/")
        if prefix == "SigLiPFromPatches_0":
            names.insert(0, "vision_encoder")
        *names, last = names
        parent = nested
        for part in names:
            parent = parent.setdefault(part, {})
        parent[last] = leaves["w"] if names[-1:] == ["mlp"] else leaves
    return nested


def _by_path(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {
        "/".join(key.key for key in keys): tuple(leaf.shape) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
