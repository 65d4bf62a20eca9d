"""Clips to latent planes and back: frames and sound through MDSA, the sound also through its mel images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pavdit.audio.invert import invert_mel
from pavdit.audio.mel import mel_images
from pavdit.clip import Clip, frames_to_volume, volume_to_frames
from pavdit.config import ModelConfig
from pavdit.latents import Planes
from pavdit.mdsa.autoencoder import MDSA
from pavdit.spans import span
from pavdit.tasks import Stream


@dataclass(frozen=True, slots=True)
class Codec:
    """An autoencoder where it runs.

    Attributes:
        config: sizes.
        mdsa: on `device`, in `dtype`.
        device: of the weights.
        dtype: of the weights.
    """

    config: ModelConfig
    mdsa: MDSA
    device: torch.device
    dtype: torch.dtype

    @torch.no_grad()
    def encode(self, clip: Clip, *streams: Stream) -> list[Planes]:
        """The latent planes of these streams, float32; two streams see each other, one knows nothing more.

        Raises:
            ValueError: the clip has other sizes or rates than the models.
        """
        clip.require(self.config.clip)
        volume = frames_to_volume(clip.frames[None].to(self.device))  # (1, 3, T, H, W)
        wave = clip.wave[None].to(self.device)  # (1, S)
        images = mel_images(wave, self.config.clip, self.config.mel)  # (1, 1, T, M, L)
        with span("encode"):
            posteriors = self.mdsa.encode(
                volume.to(self.dtype) if "video" in streams else None,
                images.to(self.dtype) if "audio" in streams else None,
            )
        return [posterior.mode().map(Tensor.float) for posterior in posteriors if posterior is not None]

    @torch.no_grad()
    def decode(self, video: Planes | None, audio: Planes | None) -> list[Clip]:
        """Latent planes to clips, one per batch row; a stream without planes is black or silent.

        Raises:
            ValueError: both are None, or a plane has another shape than the model's.
        """
        spec, mel = self.config.clip, self.config.mel
        planes = [
            None if stream is None else stream.map(lambda plane: plane.to(self.dtype))
            for stream in (video, audio)
        ]
        with span("decode"):
            volume, images = self.mdsa.decode(*planes)
        batch = (video or audio).hw.shape[0]  # type: ignore[union-attr]
        frames = torch.zeros(batch, spec.num_frames, 3, spec.height, spec.width, dtype=torch.uint8)
        waves = torch.zeros(batch, spec.num_samples)
        if volume is not None:
            frames = volume_to_frames(volume.float()).cpu()
        if images is not None:
            with span("inverse"):
                waves = invert_mel(images.float().clamp(-1, 1), spec, mel).cpu()
        return [
            Clip(frames=f, wave=w, fps=spec.fps, sample_rate=spec.sample_rate)
            for f, w in zip(frames, waves, strict=True)
        ]
