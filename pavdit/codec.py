"""Clips to latent planes and back: through an autoencoder, the sound also through its mel images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from pavdit.audio.invert import InverseTables, inverse_tables, invert_mel
from pavdit.audio.mel import mel_images
from pavdit.clip import Clip, frames_to_volume, volume_to_frames
from pavdit.config import ModelConfig
from pavdit.encoders import Autoencoder
from pavdit.flow.graph import Graphs, call, version_of
from pavdit.latents import Planes
from pavdit.spans import span
from pavdit.tasks import Stream


class Codec:
    """An autoencoder where it runs.

    Args:
        config: sizes.
        autoencoder: on `device`, in `dtype`.
        device: of the weights.
        dtype: of the weights.
        graphs: where captured functions live; None: nothing is captured.
    """

    def __init__(
        self,
        config: ModelConfig,
        autoencoder: Autoencoder,
        device: torch.device,
        dtype: torch.dtype,
        graphs: Graphs | None = None,
    ) -> None:
        self.config, self.autoencoder, self.graphs = config, autoencoder, graphs
        self.device, self.dtype = device, dtype

    @torch.no_grad()
    def encode(self, clips: Sequence[Clip], *streams: Stream) -> list[Planes]:
        """The latent planes of these streams, float32; two streams see each other, one knows nothing more.

        Args:
            clips: one for each row of the batch.
            streams: which; the answer is in the order video, audio.

        Raises:
            ValueError: a clip has other sizes or rates than the models.
        """
        for clip in clips:
            clip.require(self.config.clip)
        frames = torch.stack([clip.frames for clip in clips]).to(self.device)
        volume = frames_to_volume(frames)  # (B, 3, T, H, W)
        wave = torch.stack([clip.wave for clip in clips]).to(self.device)  # (B, S)
        images = mel_images(wave, self.config.clip, self.config.mel)  # (B, 1, T, M, L)
        with span("encode"):
            planes = self.autoencoder.latents(
                volume.to(self.dtype) if "video" in streams else None,
                images.to(self.dtype) if "audio" in streams else None,
            )
        return [one.map(Tensor.float) for one in planes if one is not None]

    def decode(self, video: Planes | None, audio: Planes | None) -> list[Clip]:
        """Latent planes to clips, one per batch row; a stream without planes is black or silent.

        Raises:
            ValueError: both are None, or a plane has another shape than the model's.
        """
        spec = self.config.clip
        frames, images = self.to_frames(video, audio)
        batch = next(x.shape[0] for x in (frames, images) if x is not None)
        if frames is None:
            frames = torch.zeros(batch, spec.num_frames, 3, spec.height, spec.width, dtype=torch.uint8)
        waves = torch.zeros(batch, spec.num_samples) if images is None else self.to_waves(images)
        return [
            Clip(frames=f, wave=w, fps=spec.fps, sample_rate=spec.sample_rate)
            for f, w in zip(frames.cpu(), waves.cpu(), strict=True)
        ]

    @torch.no_grad()
    def to_frames(self, video: Planes | None, audio: Planes | None) -> tuple[Tensor | None, Tensor | None]:
        """Latent planes to frames ``(B, T, 3, H, W)`` uint8 and mel images ``(B, 1, T, M, L)`` float32.

        Both stay on the device; None stays None.

        Raises:
            ValueError: both are None, or a plane has another shape than the model's.
        """
        streams = {"video": video, "audio": audio}
        inputs = {
            f"{stream}.{name}": getattr(planes, name).to(self.dtype)
            for stream, planes in streams.items()
            if planes is not None
            for name in ("hw", "tw", "th")
        }
        key = "decode", version_of(self.autoencoder.parameters())
        with span("decode"):
            results = call(self.graphs, key, self._decoded, inputs)
        return results.get("frames"), results.get("images")

    @torch.no_grad()
    def to_waves(self, images: Tensor) -> Tensor:
        """Mel images ``(B, 1, T, M, L)`` float32 to waves ``(B, S)``, which stay on the device."""
        with span("inverse"):
            return call(self.graphs, "inverse", self._inverted, {"images": images})["waves"]

    def _decoded(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The autoencoder's part of a decoding: the same kernels for any contents."""
        video, audio = (
            Planes(*(inputs[f"{stream}.{name}"] for name in ("hw", "tw", "th")))
            if f"{stream}.hw" in inputs
            else None
            for stream in ("video", "audio")
        )
        volume, images = self.autoencoder.decode(video, audio)
        results = {}
        if volume is not None:
            results["frames"] = volume_to_frames(volume.float())
        if images is not None:
            results["images"] = images.float()
        return results

    @cached_property
    def _tables(self) -> InverseTables:
        """Kept here because a captured inverse reads them."""
        return inverse_tables(self.config.clip, self.config.mel, self.device, torch.float32)

    def _inverted(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The sound's part."""
        images = inputs["images"]
        return {"waves": invert_mel(images, self.config.clip, self.config.mel, tables=self._tables)}
