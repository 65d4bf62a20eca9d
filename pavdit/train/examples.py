"""What an update sees: batches with mel images, and randomness that depends on the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pavdit.audio.mel import mel_images
from pavdit.config import ModelConfig
from pavdit.data.clips import Clips, readable
from pavdit.data.loader import Batch, collate, permutation

CACHE_BYTES = 1 << 30
"""Mel images of a set that take no more than this are computed once."""


@dataclass(frozen=True, slots=True)
class Examples:
    """A batch as the models take it.

    Attributes:
        video: ``(B, 3, T, H, W)`` float32 in [-1, 1].
        mel: ``(B, 1, T, M, L)`` float32 in [-1, 1].
        labels: class names, empty where a clip has none.
        names: where each clip came from.
    """

    video: Tensor
    mel: Tensor
    labels: tuple[str, ...]
    names: tuple[str, ...]


class Analyser:
    """Turns batches of waves into batches of mel images, and remembers the images of a small set.

    Args:
        config: sizes.
        clips: the set that the batches are drawn from; None: remember nothing.
    """

    def __init__(self, config: ModelConfig, clips: Clips | None = None) -> None:
        self.config = config
        bytes_per_clip = 4 * config.clip.num_frames * config.mel.n_mels * config.clip.columns_per_frame
        fits = clips is not None and not clips.varies and len(clips) * bytes_per_clip <= CACHE_BYTES
        self.known: dict[str, Tensor] | None = {} if fits else None

    def __call__(self, batch: Batch, device: torch.device) -> Examples:
        """Analyse the sound and move all to `device`."""
        video, mel = batch.video.to(device, non_blocking=True), self._mel(batch, device).to(device)
        return Examples(video, mel, batch.labels, batch.names)

    def _mel(self, batch: Batch, device: torch.device) -> Tensor:
        if self.known is None:
            return mel_images(batch.wave.to(device, non_blocking=True), self.config.clip, self.config.mel)
        new = {name: k for k, name in enumerate(batch.names) if name not in self.known}
        if new:
            images = mel_images(batch.wave[list(new.values())], self.config.clip, self.config.mel)
            self.known.update(zip(new, images, strict=True))
        return torch.stack([self.known[name] for name in batch.names])


def in_order(
    clips: Clips,
    batch_size: int,
    config: ModelConfig,
    device: torch.device,
    chosen: Sequence[int] | None = None,
) -> Iterator[Examples]:
    """Every clip of a set once (or the `chosen` ones), but for those that may be left out (`readable`).

    Raises:
        DataError: a clip cannot be read.
    """
    analyse = Analyser(config)
    found = readable(clips, range(len(clips)) if chosen is None else chosen)
    while members := list(islice(found, batch_size)):
        yield analyse(collate([clip.require(config.clip) for clip in members]), device)


MEAN_CLIPS = 256
"""That stand for a larger set in its mean: enough to know it to a sixteenth of the clips' spread."""


def mean_clip(clips: Clips, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """The mean of a set: volume ``(1, 3, T, H, W)`` and mel images ``(1, 1, T, M, L)``."""
    video, mel, count = torch.zeros(()), torch.zeros(()), 0
    chosen = range(0, len(clips), -(-len(clips) // MEAN_CLIPS))
    for examples in in_order(clips, 8, config, torch.device("cpu"), chosen):
        video = video + examples.video.sum(0, keepdim=True)
        mel = mel + examples.mel.sum(0, keepdim=True)
        count += len(examples.names)
    return video / count, mel / count


_DRAWS = 0  # keeps this stream of random numbers apart


def step_generator(seed: int, step: int, *stream: int) -> torch.Generator:
    """All randomness of update `step`: what was drawn before does not matter, so resuming draws the same.

    The numbers are hashed into 32 bits, which is all that torch's CPU generator takes of a seed.
    """
    [state] = np.random.SeedSequence([seed, step, *(stream or (_DRAWS,))]).generate_state(1)
    return torch.Generator().manual_seed(int(state))


def batch_indices(num_examples: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Examples of update `step`, ``(batch_size,)`` int64: each epoch is a permutation, and none is cut short.

    Update `step` takes places ``[step * batch_size, (step + 1) * batch_size)`` of the sequence of all epochs.
    """
    first, end = step * batch_size, (step + 1) * batch_size
    epochs = range(first // num_examples, (end - 1) // num_examples + 1)
    order = torch.cat([torch.from_numpy(permutation(seed, epoch, num_examples)) for epoch in epochs])
    return order[first - epochs[0] * num_examples : end - epochs[0] * num_examples]
