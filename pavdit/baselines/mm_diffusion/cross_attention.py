"""Random-shift attention between the streams (Ruan et al., arXiv 2212.09478, 3.3, RS-MMA)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pavdit.nn.recompute import Recomputable


def window_frames(num_frames: int, window: int, shift: Tensor) -> Tensor:
    """The frames of the other stream that each frame attends to: ``(T, window)`` int64.

    ``frames[i, j] = (i + shift + j) mod T``, the same shift for every frame.

    Args:
        num_frames: T.
        window: frames that one frame sees.
        shift: 0-d int64, 0 to T - window; a tensor, so that compiled code serves every shift.
    """
    first = torch.arange(num_frames, device=shift.device)[:, None] + shift
    return (first + torch.arange(window, device=shift.device)) % num_frames


def cross_attend(q: Tensor, kv: Tensor, frames: Tensor | None) -> Tensor:
    """Every frame's queries attend to the keys of a window of the other stream's frames, in one call.

    Args:
        q: ``(B, T, N, A, E)``, N tokens a frame.
        kv: ``(B, T, M, 2, A, E)`` of the other stream.
        frames: ``(T, window)`` from `window_frames`; None: all frames see all.

    Returns:
        ``(B, T, N, A, E)``.
    """
    batch, num_frames = q.shape[:2]
    if frames is None:
        k, v = kv.flatten(1, 2).transpose(1, 3).unbind(2)  # (B, A, T M, E)
        every = scaled_dot_product_attention(q.flatten(1, 2).transpose(1, 2), k, v)  # (B, A, T N, E)
        return every.transpose(1, 2).unflatten(1, (num_frames, -1))
    seen = kv.index_select(1, frames.flatten())  # (B, T window, M, 2, A, E)
    seen = seen.unflatten(1, frames.shape).flatten(2, 3).flatten(0, 1)  # (B T, window M, 2, A, E)
    k, v = seen.transpose(1, 3).unbind(2)  # (B T, A, window M, E)
    out = scaled_dot_product_attention(q.flatten(0, 1).transpose(1, 2), k, v)  # (B T, A, N, E)
    return out.transpose(1, 2).unflatten(0, (batch, num_frames))


class RandomShiftAttention(Recomputable):
    """Frames of the video attend to a window of the sound, and the sound of a frame to a window of frames.

    Args:
        width: channels of both streams.
        head_dim: E.
        groups: of the normalisations.
        window: frames; None: all of them, which no shift changes.
    """

    def __init__(self, width: int, head_dim: int, groups: int, window: int | None) -> None:
        super().__init__()
        self.window, self.heads = window, (width // head_dim, head_dim)
        self.video_norm, self.audio_norm = nn.GroupNorm(groups, width), nn.GroupNorm(groups, width)
        self.video_qkv, self.audio_qkv = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.video_out, self.audio_out = nn.Linear(width, width), nn.Linear(width, width)
        for out in (self.video_out, self.audio_out):
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)

    def forward(self, video: Tensor, audio: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Args and returns: ``(B, C, T, H, W)`` and ``(B, C, S)``; `shift` is 0-d, of this block."""
        return self.run(self._forward, video, audio, shift)

    def _forward(self, video: Tensor, audio: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        num_frames, rows, columns = video.shape[2:]
        frames = None
        if self.window is not None and shift is not None and self.window < num_frames:
            frames = window_frames(num_frames, self.window, shift)
        pixels = self.video_norm(video).movedim(1, -1).flatten(2, 3)  # (B, T, H W, C)
        samples = self.audio_norm(audio).transpose(1, 2).unflatten(1, (num_frames, -1))  # (B, T, S / T, C)
        of_video = self.video_qkv(pixels).unflatten(-1, (3, *self.heads))  # (B, T, N, 3, A, E)
        of_audio = self.audio_qkv(samples).unflatten(-1, (3, *self.heads))
        heard = cross_attend(of_video[..., 0, :, :], of_audio[..., 1:, :, :], frames)
        seen = cross_attend(of_audio[..., 0, :, :], of_video[..., 1:, :, :], frames)
        video_change = self.video_out(heard.flatten(-2)).unflatten(2, (rows, columns)).movedim(-1, 1)
        audio_change = self.audio_out(seen.flatten(-2)).flatten(1, 2).transpose(1, 2)
        return video + video_change, audio + audio_change
