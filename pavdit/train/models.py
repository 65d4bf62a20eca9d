"""Models built from a configuration and loaded from a checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from pavdit.config import ConfigError, ModelConfig
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA
from pavdit.stdit.model import STDiT
from pavdit.text import ClassEncoder
from pavdit.train.checkpoint import Checkpoint, CheckpointError, load_weights, require_architecture


class Generator(nn.Module):
    """What the second stage trains: STDiT and the text encoder that feeds it.

    Args:
        config: a system with the class names of its training set.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        layout = PlaneLayout.choose(config.grid, config.stdit.layout)
        self.stdit = STDiT(config.stdit, layout, config.mdsa.latent_channels)
        self.text = ClassEncoder(config.text.class_names, config.stdit.text_dim, config.text.tokens_per_class)


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        ConfigError: torch does not know or does not have the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: want auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: want a device of this machine, got {name!r} and no CUDA")
    return device


def load_autoencoder(checkpoint: Checkpoint, want: ModelConfig | None = None) -> MDSA:
    """The averaged autoencoder of a checkpoint of either stage, frozen.

    Raises:
        CheckpointError: it is of another architecture than `want` or than its own configuration.
    """
    if want is not None:
        require_architecture(checkpoint, want, "autoencoder")
    name = "autoencoder" if checkpoint.has("autoencoder") else "ema"
    model = MDSA(checkpoint.config.model)
    load_weights(model, checkpoint.tensors(name), checkpoint.path / f"{name}.safetensors")
    return model.eval().requires_grad_(False)


def load_generator(checkpoint: Checkpoint) -> Generator:
    """The averaged generator of a checkpoint, frozen.

    Raises:
        CheckpointError: it is an autoencoder's, or damaged.
    """
    if checkpoint.config.train.stage != "generator":
        raise CheckpointError(f"{checkpoint.path}: want a generator's checkpoint, got an autoencoder's")
    model = Generator(checkpoint.config.model)
    load_weights(model, checkpoint.tensors("ema"), checkpoint.path / "ema.safetensors")
    return model.eval().requires_grad_(False)
