"""MDSA: both streams, where they meet in the encoder (eq. 6) and where they meet in the decoder (eq. 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from pavdit.config import ModelConfig
from pavdit.encoders import Autoencoder, BothPlanes
from pavdit.latents import Planes
from pavdit.mdsa.attention import CrossStreamAttention, GroupCrossModalAttention
from pavdit.mdsa.bottleneck import Posterior, ToLatent
from pavdit.mdsa.decoder import StreamDecoder
from pavdit.mdsa.encoder import StreamEncoder
from pavdit.mdsa.streams import StreamMasks

Part = TypeVar("Part", bound=nn.Module)

SMALLEST_SPREAD = 1 / 255
"""Of pixels and mel values in calibration: clips of one colour, or silent ones, have none."""


class Reconstruction(NamedTuple):
    """Frames ``(B, 3, T, H, W)``, mel images ``(B, 1, T, M, L)`` and the posteriors they came from.

    All of a stream that was not given is None.
    """

    video: Tensor | None
    audio: Tensor | None
    video_posterior: Posterior | None
    audio_posterior: Posterior | None


class MDSA(Autoencoder):
    """The multi-scale dual-stream spatio-temporal autoencoder (PAV-DiT 3.1).

    Encoding is eq. 1 and 2 and the plane attention of eq. 4 and 5 per stream, GCM-Attn between the streams
    (eq. 6), then the bottleneck. Decoding is eq. 7 per stream, Bi-Block CrossAttn between them (eq. 8), then
    a TimeSformer and the way back to frames. `config.mdsa.gcm_attn` and the other switches of the paper's
    Table 5 remove a part altogether; without any exchange the two streams are two independent autoencoders,
    and one of them alone (`config.mdsa.streams`), without attention on planes either, is PVDM's (Yu et al.,
    arXiv 2302.07685), the baseline of its Table 6. What belongs to a stream that is not there is None.

    Args:
        config: a system; `clip`, `mel` and `mdsa` count here.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        mdsa, clip, self.grid = config.mdsa, config.clip, config.grid
        self.video_shape = (3, clip.num_frames, clip.height, clip.width)
        self.audio_shape = (1, clip.num_frames, config.mel.n_mels, clip.columns_per_frame)
        self.latent_channels = mdsa.latent_channels
        self.bi_block_size = mdsa.bi_block or (1, *self.grid[1:])
        video_patch, mel_patch = (mdsa.patch_size, mdsa.patch_size), config.mel_patch
        fusion = (mdsa.width, mdsa.fusion_num_heads, mdsa.fusion_head_dim)
        self.streams = mdsa.streams
        has_video, has_audio = mdsa.has("video"), mdsa.has("audio")

        self.video_encoder = _if(has_video, lambda: StreamEncoder(mdsa, self.grid, 3, video_patch))
        self.audio_encoder = _if(has_audio, lambda: StreamEncoder(mdsa, self.grid, 1, mel_patch))
        self.gcm_attn = GroupCrossModalAttention(*fusion) if mdsa.gcm_attn else None
        self.video_to_latent = _if(has_video, lambda: ToLatent(mdsa.width, mdsa.latent_channels))
        self.audio_to_latent = _if(has_audio, lambda: ToLatent(mdsa.width, mdsa.latent_channels))
        self.bi_block_attn = CrossStreamAttention(*fusion) if mdsa.bi_block_attn else None
        self.video_decoder = _if(has_video, lambda: StreamDecoder(mdsa, self.grid, 3, video_patch))
        self.audio_decoder = _if(has_audio, lambda: StreamDecoder(mdsa, self.grid, 1, mel_patch))

    def encode(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        *,
        video_sees_audio: Tensor | None = None,
        audio_sees_video: Tensor | None = None,
    ) -> tuple[Posterior | None, Posterior | None]:
        """Frames and mel images in [-1, 1] to one posterior per stream; a stream given as None has none.

        Args:
            video: ``(B, 3, T, H, W)`` or None.
            audio: ``(B, 1, T, M, L)`` or None.
            video_sees_audio: ``(B,)`` bool, False where the video's latent must not depend on audio. None: it
                may.
            audio_sees_video: the same for the audio's latent.

        Raises:
            ValueError: both streams are None, one is none of the model's, or a shape is not the model's.
        """
        self._check_inputs(video, audio)
        z_v = None if video is None else self.video_encoder(video)
        z_a = None if audio is None else self.audio_encoder(audio)
        if self.gcm_attn is not None and z_v is not None and z_a is not None:
            z_v, z_a = self.gcm_attn(z_v, z_a, video_sees_audio, audio_sees_video)
        return (
            None if z_v is None else self.video_to_latent(z_v),
            None if z_a is None else self.audio_to_latent(z_a),
        )

    def latents(self, video: Tensor | None, audio: Tensor | None) -> tuple[Planes | None, Planes | None]:
        """tanh(mu) of what `encode` says."""
        q_v, q_a = self.encode(video, audio)
        return None if q_v is None else q_v.mode(), None if q_a is None else q_a.mode()

    def latents_both_ways(self, video: Tensor, audio: Tensor) -> tuple[BothPlanes, BothPlanes]:
        """Each encoder runs once."""
        self._check_inputs(video, audio)
        z_v, z_a = self.video_encoder(video), self.audio_encoder(audio)
        alone = self.video_to_latent(z_v).mode(), self.audio_to_latent(z_a).mode()
        if self.gcm_attn is None:
            return alone, alone
        z_v, z_a = self.gcm_attn(z_v, z_a)
        return (self.video_to_latent(z_v).mode(), self.audio_to_latent(z_a).mode()), alone

    def decode(
        self,
        video: Planes | None,
        audio: Planes | None,
        *,
        video_sees_audio: Tensor | None = None,
        audio_sees_video: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Latent planes to frames ``(B, 3, T, H, W)`` and mel images ``(B, 1, T, M, L)``; None stays None.

        The output is linear: values may leave [-1, 1]. The masks are as for `encode`.

        Raises:
            ValueError: both streams are None, one is none of the model's, or a plane has another shape than
                the model's.
        """
        self._check_streams("decode", " planes", video is not None, audio is not None)
        for name, planes in (("video", video), ("audio", audio)):
            if planes is not None:
                self._check_planes(name, planes)
        x_v = None if video is None else self.video_decoder.expand(video)  # (B, T, H', W', D)
        x_a = None if audio is None else self.audio_decoder.expand(audio)
        if self.bi_block_attn is not None and x_v is not None and x_a is not None:
            x_v, x_a = self.bi_block_attn(x_v, x_a, self.bi_block_size, video_sees_audio, audio_sees_video)
        return (
            None if x_v is None else self.video_decoder(x_v),
            None if x_a is None else self.audio_decoder(x_a),
        )

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        masks: StreamMasks | None = None,
        noise: tuple[Planes | None, Planes | None] = (None, None),
    ) -> Reconstruction:
        """Encode and decode a training batch.

        Args:
            video: ``(B, 3, T, H, W)``; None where the model has no such stream.
            audio: ``(B, 1, T, M, L)``, likewise.
            masks: stream dropout, of both streams; None: every stream is there and sees the other.
            noise: eps of the video's and the audio's latent: decodes tanh(mu + sigma * eps), as stage 2 does.
                None: decodes tanh(mu).
        """
        encoding: dict[str, Tensor] = {}
        decoding: dict[str, Tensor] = {}
        if masks is not None and video is not None and audio is not None:
            video = torch.where(masks.has_video[:, None, None, None, None], video, 0)
            audio = torch.where(masks.has_audio[:, None, None, None, None], audio, 0)
            encoding = {
                "video_sees_audio": masks.encode_video_sees_audio,
                "audio_sees_video": masks.encode_audio_sees_video,
            }
            decoding = {
                "video_sees_audio": masks.decode_video_sees_audio,
                "audio_sees_video": masks.decode_audio_sees_video,
            }
        q_v, q_a = self.encode(video, audio, **encoding)
        z_v, z_a = (
            None if q is None else q.mode() if eps is None else q.sample(eps)
            for q, eps in zip((q_v, q_a), noise, strict=True)
        )
        x_v, x_a = self.decode(z_v, z_a, **decoding)
        return Reconstruction(x_v, x_a, q_v, q_a)

    @torch.no_grad()
    def calibrate(self, video: Tensor | None, audio: Tensor | None) -> None:
        """Begin at the level and contrast of these clips: standardised input, frames of the mean colour.

        For an untrained model. Clips are dark and mostly silent, far from 0, and what tells them apart is
        small beside that constant. Left in, it is the first thing that the whole network moves for: the
        latents saturate on it before they say anything of the clip.

        Args:
            video: ``(B, 3, T, H, W)``, some clips of the training set.
            audio: ``(B, 1, T, M, L)``, their mel images; None, as the video, where there is no such stream.

        Raises:
            ValueError: a shape is not the model's.
        """
        self._check_inputs(video, audio)
        for x, encoder, decoder in (
            (video, self.video_encoder, self.video_decoder),
            (audio, self.audio_encoder, self.audio_decoder),
        ):
            if x is None:
                continue
            mean = x.mean((0, 2, 3, 4))  # (channels,)
            spread = (x - mean.view(-1, 1, 1, 1)).square().mean().sqrt()
            encoder.patch.calibrate(mean, spread.clamp(min=SMALLEST_SPREAD))
            decoder.to_pixels.calibrate(mean)

    def _check_inputs(self, video: Tensor | None, audio: Tensor | None) -> None:
        self._check_streams("encode", "", video is not None, audio is not None)
        for name, x, shape in (("video", video, self.video_shape), ("audio", audio, self.audio_shape)):
            if x is not None and tuple(x.shape[1:]) != shape:
                raise ValueError(
                    f"encode: want {name} (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}"
                )
        if video is not None and audio is not None and video.shape[0] != audio.shape[0]:
            raise ValueError(f"encode: want one batch size, got {video.shape[0]} and {audio.shape[0]}")

    def _check_streams(self, verb: str, what: str, video: bool, audio: bool) -> None:
        if self.streams != "both" and (video, audio) != (self.streams == "video", self.streams == "audio"):
            got = " and ".join(n for n, there in (("video", video), ("audio", audio)) if there) or "neither"
            raise ValueError(f"{verb}: want {self.streams}{what} alone, which is all that it has, got {got}")
        if not video and not audio:
            raise ValueError(f"{verb}: want video{what}, audio{what} or both, got neither")

    def _check_planes(self, name: str, planes: Planes) -> None:
        frames, rows, columns = self.grid
        lead = (planes.hw.shape[0], self.latent_channels)
        want = [(*lead, *edges) for edges in ((rows, columns), (frames, columns), (frames, rows))]
        got = [tuple(planes.hw.shape), tuple(planes.tw.shape), tuple(planes.th.shape)]
        if got != want:
            raise ValueError(f"decode: want {name} planes hw, tw, th of shapes {want}, got {got}")


def _if(there: bool, make: Callable[[], Part]) -> Part:
    """A part of a stream that is there; else None, which nothing asks for: its stream is refused before."""
    return make() if there else cast(Part, None)
