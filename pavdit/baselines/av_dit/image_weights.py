"""Weights of a public image DiT, by the names of facebookresearch/DiT or of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pavdit.baselines.av_dit.dit import ImageDiT
from pavdit.clip import DataError
from pavdit.stdit.embed import PATCH
from pavdit.train.checkpoint import load_weights

FACEBOOK = {
    "embed": "x_embedder.proj",
    "timestep.fc1": "t_embedder.mlp.0",
    "timestep.fc2": "t_embedder.mlp.2",
    "label": "y_embedder.embedding_table",
    "final_modulation": "final_layer.adaLN_modulation.1",
    "final": "final_layer.linear",
}
FACEBOOK_BLOCK = {
    "attention.proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "modulation": "adaLN_modulation.1",
}
DIFFUSERS = {
    "embed": "pos_embed.proj",
    # every block has these three, and they are all the same
    "timestep.fc1": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
    "timestep.fc2": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
    "label": "transformer_blocks.0.norm1.emb.class_embedder.embedding_table",
    "final_modulation": "proj_out_1",
    "final": "proj_out_2",
}
DIFFUSERS_BLOCK = {
    "attention.q": "attn1.to_q",
    "attention.k": "attn1.to_k",
    "attention.v": "attn1.to_v",
    "attention.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "modulation": "norm1.linear",
}


def load_image_dit(model: ImageDiT, path: Path) -> None:
    """Read weights into a model of their size.

    Args:
        model: on the CPU.
        path: ``.safetensors``, or what ``torch.save`` wrote.

    Raises:
        DataError: nothing readable is there.
        CheckpointError: names or shapes are not the model's; the message counts and names them.
    """
    stored = _read(path)
    name = next(iter(FACEBOOK.values()))
    own = _from_facebook(stored, model) if f"{name}.weight" in stored else _from_diffusers(stored, model)
    load_weights(model, own, path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{path}: want weights of an image DiT (.safetensors or .pt), got {' '.join(str(error).split())}"
        ) from None
    stored = stored.get("ema", stored) if isinstance(stored, dict) else stored  # of a training, the average
    if not isinstance(stored, dict) or not all(isinstance(t, Tensor) for t in stored.values()):
        raise DataError(f"{path}: want named tensors of an image DiT, got {type(stored).__name__}")
    return stored


def _renamed(stored: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights and biases under our names; what is not there is left out."""
    return {
        f"{ours}.{kind}": stored[f"{theirs}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
        if f"{theirs}.{kind}" in stored
    }


def _from_facebook(stored: Mapping[str, Tensor], model: ImageDiT) -> dict[str, Tensor]:
    own = _renamed(stored, FACEBOOK)
    for i in range(_blocks(stored, "blocks")):
        block = {f"blocks.{i}.{ours}": f"blocks.{i}.{theirs}" for ours, theirs in FACEBOOK_BLOCK.items()}
        own |= _renamed(stored, block)
        for kind in ("weight", "bias"):
            if (packed := stored.get(f"blocks.{i}.attn.qkv.{kind}")) is not None and len(packed) % 3 == 0:
                for part, tensor in zip("qkv", packed.chunk(3), strict=True):
                    own[f"blocks.{i}.attention.{part}.{kind}"] = tensor
    return _in_our_order(own, model)


def _from_diffusers(stored: Mapping[str, Tensor], model: ImageDiT) -> dict[str, Tensor]:
    own = _renamed(stored, DIFFUSERS)
    for i in range(_blocks(stored, "transformer_blocks")):
        names = {f"blocks.{i}.{a}": f"transformer_blocks.{i}.{b}" for a, b in DIFFUSERS_BLOCK.items()}
        own |= _renamed(stored, names)
    return _in_our_order(own, model)


def _blocks(stored: Mapping[str, Tensor], prefix: str) -> int:
    """How many there are."""
    numbers = [name.split(".")[1] for name in stored if name.startswith(f"{prefix}.")]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def _in_our_order(own: dict[str, Tensor], model: ImageDiT) -> dict[str, Tensor]:
    """Patches as (channel, row, column): theirs come in so, as a convolution, but go out channel last."""
    if (embed := own.get("embed.weight")) is not None:
        own["embed.weight"] = embed.flatten(1)
    for kind in ("weight", "bias"):
        last = own.get(f"final.{kind}")
        if last is not None and len(last) == model.final.out_features:
            patches = last.unflatten(0, (PATCH, PATCH, -1)).movedim(2, 0)  # (2 C, 2, 2, ...)
            own[f"final.{kind}"] = patches.flatten(0, 2).contiguous()
    return own
