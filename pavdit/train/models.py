"""Models built from a configuration and loaded from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from pavdit.config import LANGUAGE_MODELS, ConfigError, ModelConfig, one_line
from pavdit.encoders import Autoencoder, EncoderPair
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA
from pavdit.stdit.model import STDiT
from pavdit.text import ClassEncoder, EncoderFiles, FreeTextEncoder, OnDemand, TextEncoder, WordEncoder
from pavdit.train.checkpoint import Checkpoint, CheckpointError, Run, load_weights, require_architecture


class Generator(nn.Module):
    """What the second stage trains: STDiT and the text encoder that feeds it.

    Args:
        config: a system with the class names of its training set.
        text: a frozen encoder, which is no part of the weights; None: there is only the table of classes or
            words, which is.

    Raises:
        ConfigError: the encoder's tokens have another width than STDiT wants.
    """

    def __init__(self, config: ModelConfig, text: TextEncoder | None = None) -> None:
        super().__init__()
        layout = PlaneLayout.choose(config.grid, config.stdit.layout)
        self.stdit = STDiT(config.stdit, layout, config.mdsa.latent_channels)
        width, about = config.stdit.text_dim, config.text
        if text is not None and text.dim != width:
            raise ConfigError(
                f"model.stdit.text_dim: want {text.dim}, the width of {about.language_model}'s tokens, "
                f"got {width}"
            )
        self.text: TextEncoder
        if about.encoder == "words":
            words = about.vocabulary, width, about.max_words
            self.text = FreeTextEncoder(*words, language=text) if text is not None else WordEncoder(*words)
        elif text is not None:
            self.text = text
        else:
            self.text = ClassEncoder(about.class_names, width, about.tokens_per_class)


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


def with_dtype(config: Run, device: torch.device) -> Run:
    """Decide on ``train.dtype: auto``: bfloat16 on CUDA and CPUs with instructions for it, else float32."""
    if config.train.dtype != "auto":
        return config
    native = device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    train = config.train.model_copy(update={"dtype": "bfloat16" if native else "float32"})
    return config.model_copy(update={"train": train})


def build_autoencoder(config: ModelConfig) -> Autoencoder:
    """An untrained MDSA, or a pair of them where the sound has its own."""
    if config.audio_mdsa is None:
        return MDSA(config)
    video, audio = (
        MDSA(config.model_copy(update={"mdsa": mdsa, "audio_mdsa": None}))
        for mdsa in (config.mdsa, config.audio_mdsa)
    )
    return EncoderPair(video, audio)


def load_autoencoder(checkpoint: Checkpoint, want: ModelConfig | None = None) -> Autoencoder:
    """The averaged autoencoder of a checkpoint of either stage, frozen.

    Raises:
        CheckpointError: it is of another architecture than `want` or than its own configuration.
    """
    if want is not None:
        require_architecture(checkpoint, want, "autoencoder")
    if (adapter := checkpoint.config.adapter) is not None:
        raise CheckpointError(
            f"{checkpoint.path}: want an autoencoder's or a generator's checkpoint, got adapters "
            f"(--adapter takes them, beside their backbone {adapter.backbone})"
        )
    name = "autoencoder" if checkpoint.has("autoencoder") else "ema"
    model = build_autoencoder(checkpoint.config.model)
    load_weights(model, checkpoint.tensors(name), checkpoint.path / f"{name}.safetensors")
    return model.eval().requires_grad_(False)


def load_pair(video: Checkpoint, audio: Checkpoint, want: ModelConfig) -> tuple[ModelConfig, EncoderPair]:
    """Two frozen autoencoders, and `want` with the sound's own one filled in.

    Raises:
        CheckpointError: one is of another architecture than `want` says.
        ConfigError: they are not of a picture and of sound, or their planes are of different sizes.
    """
    own = audio.config.model.mdsa if want.audio_mdsa is None else want.audio_mdsa
    try:
        model = ModelConfig.model_validate({**want.model_dump(), "audio_mdsa": own})
    except ValidationError as error:
        raise ConfigError(f"train.audio_autoencoder: {one_line(error)}") from None
    alone = want.model_copy(update={"audio_mdsa": None})
    return model, EncoderPair(
        load_autoencoder(video, alone), load_autoencoder(audio, alone.model_copy(update={"mdsa": own}))
    )


def load_generator(
    checkpoint: Checkpoint, device: torch.device | str = "cpu", text_path: Path | None = None
) -> Generator:
    """The averaged generator of a checkpoint, frozen.

    Args:
        checkpoint: a generator's.
        device: where a language model runs that it takes its prompts from.
        text_path: the language model's folder, if it lies elsewhere than where the generator was trained.

    Raises:
        CheckpointError: it is an autoencoder's, or damaged, or was trained with another language model.
        ConfigError: the language model is not there.
    """
    if checkpoint.config.train.stage != "generator":
        stage = checkpoint.config.train.stage
        raise CheckpointError(f"{checkpoint.path}: want a generator's checkpoint, got one of stage {stage}")
    about = checkpoint.config.model.text
    text: TextEncoder | None = None
    if about.encoder in LANGUAGE_MODELS:
        files = EncoderFiles.find(about.model_copy(update={"path": text_path or about.path}))
        if files.weights != about.weights:
            raise CheckpointError(
                f"{checkpoint.path}: want the {about.encoder} model {about.weights} that it was trained "
                f"with, got {files.weights} in {files.path}"
            )
        text = files.load(torch.device(device))
    elif about.language is not None:
        width = checkpoint.config.model.stdit.text_dim
        text = OnDemand(about, width, torch.device(device), text_path)
    model = Generator(checkpoint.config.model, text)
    load_weights(model, checkpoint.tensors("ema"), checkpoint.path / "ema.safetensors")
    return model.eval().requires_grad_(False)
