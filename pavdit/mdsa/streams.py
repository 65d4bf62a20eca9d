"""Stream dropout: which stream is there, and which sees the other, per sample of a training batch.

GCM-Attn lets sound into the video's latent. A model that only ever saw such pairs could not continue from one
stream, so some samples train a stream alone, and some decode a stream's own latent beside the other's joint
latent, which is what video to audio and audio to video decode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pavdit.config import StreamDropoutConfig


@dataclass(frozen=True, slots=True)
class StreamMasks:
    """Per-sample switches, each ``(B,)`` bool.

    Attributes:
        has_video, has_audio: False where the stream is missing: it contributes nothing, neither input nor
            loss.
        encode_video_sees_audio, encode_audio_sees_video: GCM-Attn (eq. 6), per direction.
        decode_video_sees_audio, decode_audio_sees_video: Bi-Block CrossAttn (eq. 8), per direction.
    """

    has_video: Tensor
    has_audio: Tensor
    encode_video_sees_audio: Tensor
    encode_audio_sees_video: Tensor
    decode_video_sees_audio: Tensor
    decode_audio_sees_video: Tensor

    def rows(self, rows: slice) -> StreamMasks:
        """The masks of some of the samples."""
        return StreamMasks(*(mask[rows] for mask in self.as_dict().values()))

    def as_dict(self) -> dict[str, Tensor]:
        """By name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def draw_stream_masks(
    batch: int, config: StreamDropoutConfig, generator: torch.Generator | None = None
) -> StreamMasks:
    """Draw each sample's case: video alone, audio alone, crossed, or (the rest) both, seeing each other.

    Crossed, in equal shares: one stream is encoded alone and the other jointly, then both are decoded
    together.
    """
    device = None if generator is None else generator.device
    u = torch.rand(batch, generator=generator, device=device)
    video_only_below = config.video_alone
    audio_only_below = video_only_below + config.audio_alone
    crossed_below = audio_only_below + config.crossed
    crossed_middle = audio_only_below + config.crossed / 2
    has_audio = u >= video_only_below
    has_video = (u < video_only_below) | (u >= audio_only_below)
    both = has_video & has_audio
    return StreamMasks(
        has_video=has_video,
        has_audio=has_audio,
        encode_video_sees_audio=both & ~((u >= audio_only_below) & (u < crossed_middle)),
        encode_audio_sees_video=both & ~((u >= crossed_middle) & (u < crossed_below)),
        decode_video_sees_audio=both,
        decode_audio_sees_video=both,
    )
