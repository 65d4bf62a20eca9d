"""Samples on the way: made by the weights as they are, from latents of the set, without any media file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pavdit.clip import Clip
from pavdit.codec import Codec
from pavdit.config import ModelConfig
from pavdit.data.latent_cache import LatentSet
from pavdit.flow.path import draw_noise
from pavdit.latents import PlaneLayout
from pavdit.options import SamplingOptions
from pavdit.sampling import BoundVelocity, encode_captions, place_given, sample_batch
from pavdit.train.models import Generator


@dataclass(frozen=True, slots=True)
class Sampler:
    """Makes P for clips of a set.

    Attributes:
        config: sizes.
        layout: of P.
        device: where the generator is.
    """

    config: ModelConfig
    layout: PlaneLayout
    device: torch.device

    @torch.no_grad()
    def make(
        self,
        model: Generator,
        latents: LatentSet,
        clips: Sequence[int],
        *,
        task: str,
        prompts: Sequence[str] | None,
        seed: int = 0,
    ) -> Tensor:
        """P ``(B, C, G, rows, columns)`` float32 on the generator's device.

        Args:
            model: the generator.
            latents: the set.
            clips: B places in it; a task that is given a stream is given theirs.
            task: one of `pavdit.config.TASKS`.
            prompts: of each clip; None: no condition.
            seed: of the first clip's noise; the next has the next one.
        """
        config = self.config
        given = latents.read(clips, ["alone"] * len(clips))
        random = [torch.Generator().manual_seed(seed + i) for i in range(len(clips))]
        noise = draw_noise(given.shape[1:], random, config.flow.prior)
        latent, target = place_given(noise.to(self.device), given.to(self.device), task, self.layout)
        captions = encode_captions(model.text, prompts, len(clips), config, self.device)
        options = SamplingOptions.of(config.flow, task, {})
        options = options if captions.known else options.unguided()
        velocity = BoundVelocity(model.stdit, captions, options, fps=float(config.clip.fps))
        return sample_batch(velocity, latent, target=target)

    def decode(self, codec: Codec, latent: Tensor, task: str) -> list[Clip]:
        """P to clips; a given stream is what the autoencoder makes of its latent."""
        video, audio = self.layout.unstack(latent)
        return codec.decode(None if task == "t2a" else video, None if task == "t2v" else audio)
