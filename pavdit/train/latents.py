"""From a generator's configuration to its latents and captions: encoded where they are not, then read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from pavdit.config import ConfigError, ModelConfig, RunConfig, TextConfig
from pavdit.data.caption_cache import CaptionTable
from pavdit.data.clips import Subset, open_clips
from pavdit.data.latent_cache import LatentCache, LatentSet
from pavdit.data.shards import Share
from pavdit.encoders import Autoencoder
from pavdit.progress import progress
from pavdit.text import EncoderFiles, vocabulary_of
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.models import load_autoencoder, load_pair
from pavdit.train.ranks import on_all, rank_and_ranks
from pavdit.weights import find_weights


@dataclass(frozen=True, slots=True)
class EncodedRun:
    """What a generator learns from, encoded.

    Attributes:
        config: the run, with the class names or the language model of its set filled in.
        autoencoder: frozen.
        cache: of its latents.
        train: clips to learn from.
        held_out: clips to validate on.
        captions: what a language model says of their captions; None where classes are the condition.
    """

    config: RunConfig
    autoencoder: Autoencoder
    cache: LatentCache
    train: Subset
    held_out: Subset
    captions: CaptionTable | None

    def latents(self) -> tuple[LatentSet, LatentSet | None]:
        """Of the training clips and of those held out (None: none).

        Raises:
            DataError: there are none.
        """
        if self.captions is not None:
            self.captions.shards.refresh()
        unseen = self.cache.open(self.held_out) if len(self.held_out) else None
        return self.cache.open(self.train, mirrored=mirrors(self.config)), unseen


def mirrors(config: RunConfig) -> bool:
    """Whether mirrored clips are latents of their own, and encoded too."""
    return config.data.flip_probability > 0


def cache_folder(config: RunConfig) -> Path:
    """Where the latents of a run lie."""
    return config.train.latent_cache or config.train.run_dir.parent / "latents"


def encode_run(config: RunConfig, device: torch.device, console: Console) -> EncodedRun:
    """Encode what is missing of a run's clips and captions, each rank its share; waits for all of them.

    Raises:
        CheckpointError: the autoencoder's checkpoint is missing, damaged or of another architecture.
        ConfigError: the options exclude each other, or name other classes or another language model.
        DataError: a clip cannot be read, or a caption is too long.
        OSError: the disk is full; what was encoded stays.
    """
    return on_all(lambda: _encode_share(config, device, console, Share(*rank_and_ranks())))


def _encode_share(config: RunConfig, device: torch.device, console: Console, share: Share) -> EncodedRun:
    data = config.data
    if data.segments == "random":
        raise ConfigError(
            "data.segments: want first or all for stage 'generator', which encodes each clip once, got random"
        )
    model, autoencoder, place = _autoencoder(config)
    autoencoder.to(device)
    train, held_out = open_clips(data, model.clip)
    console.print(train.summary)
    root = cache_folder(config)
    options = model.encoding() | {"resize": data.resize, "channel": data.channel}
    cache = LatentCache(root, autoencoder, model, options, config.train.latent_dtype)
    console.print(
        f"{len(train)} clips to train on, {len(held_out)} held out, encoded with {place} "
        f"in {cache.shards.directory}; layout of P: {cache.layout}"
    )
    for clips, what, flips in ((train, "clips", mirrors(config)), (held_out, "held-out clips", False)):
        if len(clips):
            with progress(console, f"encoding {what}") as tell:
                cache.encode(
                    clips,
                    mirrored=flips,
                    share=share,
                    num_workers=config.train.num_workers,
                    say=console.print,
                    progress=tell,
                )

    captions = None
    text = model.text
    fixed = config.train.stage == "adapter"  # the backbone's classes and words are what they are
    if text.encoder == "classes" and not fixed:
        text = with_classes(text, train.class_names)
    elif text.encoder != "classes":
        sentences = sorted({caption_of(clips, i) for clips in (train, held_out) for i in range(len(clips))})
    if text.encoder == "words" and not fixed:
        text = with_vocabulary(text, (*sentences, *train.class_names))
    if text.language_model is not None:
        files = EncoderFiles.named(text, model.stdit.text_dim)
        text = with_language_model(text, model.stdit.text_dim, files)
        captions = CaptionTable(root, files)
        with progress(console, "encoding captions") as tell:
            captions.fill(sentences, device, share=share, say=console.print, progress=tell)
    config = config.model_copy(update={"model": model.model_copy(update={"text": text})})
    return EncodedRun(config, autoencoder, cache, train, held_out, captions)


def _autoencoder(config: RunConfig) -> tuple[ModelConfig, Autoencoder, str]:
    """The frozen autoencoder of a run, or its two; the sizes with them filled in; and where they lie."""
    if config.autoencoder is None:
        raise ConfigError("train: want autoencoder (a checkpoint) for stage 'generator', got none")
    saved = open_checkpoint(find_weights(config.autoencoder))
    if config.train.audio_autoencoder is None:
        if saved.config.model.audio_mdsa is not None and config.model.audio_mdsa is None:
            raise ConfigError(
                "train: want the runs of both encoders as autoencoder and audio_autoencoder, "
                f"got {saved.path}, a generator's of two"
            )
        return config.model, load_autoencoder(saved, config.model), str(saved.path)
    sound = open_checkpoint(find_weights(config.train.audio_autoencoder))
    model, pair = load_pair(saved, sound, config.model)
    return model, pair, f"{saved.path} and {sound.path}"


def caption_of(clips: Subset, index: int) -> str:
    """The sentence that a language model reads of a clip: its caption, else its class, else nothing."""
    record = clips.record(index)
    return record.caption or record.label


def with_classes(text: TextConfig, found: Sequence[str]) -> TextConfig:
    """Fill in the class names; clips without any class are one class, ``clip``."""
    if text.class_names and not set(found) <= set(text.class_names):
        raise ConfigError(
            f"text.class_names: want every class of the clips ({', '.join(found)}), "
            f"got {', '.join(text.class_names)}"
        )
    return text.model_copy(update={"class_names": text.class_names or tuple(found) or ("clip",)})


def with_vocabulary(text: TextConfig, sentences: Iterable[str]) -> TextConfig:
    """Fill in the words of the set's captions and classes; a set without any has the one word ``clip``."""
    found = vocabulary_of(sentences) or ("clip",)
    if text.vocabulary and (unknown := sorted(set(found) - set(text.vocabulary))):
        raise ConfigError(f"text.vocabulary: want every word of the clips' captions, got none of {unknown}")
    return text.model_copy(update={"vocabulary": text.vocabulary or found})


def with_language_model(text: TextConfig, width: int, files: EncoderFiles) -> TextConfig:
    """Fill in what names the language model."""
    if text.weights not in ("", files.weights):
        raise ConfigError(f"text.weights: want {text.weights}, got {files.weights} in {files.path}")
    if width != files.dim:
        raise ConfigError(
            f"model.stdit.text_dim: want {files.dim}, the width of {files.kind}'s tokens, got {width}"
        )
    return text.model_copy(update={"weights": files.weights})
