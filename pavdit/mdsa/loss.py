"""The autoencoder's objective (PAV-DiT eq. 10 to 12), as far as the first stage and the KL term go.

Eq. 12 sets gamma = 0 until the discriminator starts, so in the first stage eq. 10 has no adversarial terms.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, smooth_l1_loss

from pavdit.mdsa.autoencoder import Reconstruction
from pavdit.mdsa.bottleneck import Posterior
from pavdit.mdsa.streams import StreamMasks

STREAM_WEIGHT = 0.5
"""omega_m of eq. 10."""

NUM_GRADIENT_SCALES = 3


def draw_frames(batch: int, num_frames: int, generator: torch.Generator | None = None) -> Tensor:
    """One frame index per clip, ``(B,)`` int64, for the perceptual term."""
    device = None if generator is None else generator.device
    return torch.randint(num_frames, (batch,), generator=generator, device=device)


def mdsa_loss(
    output: Reconstruction,
    video: Tensor,
    audio: Tensor,
    frames: Tensor,
    masks: StreamMasks | None = None,
    counts: tuple[Tensor, Tensor] | None = None,
    *,
    pixel_weight: float = 4.0,
    l1_beta: float = 0.0,
    perceptual_weight: float = 4.0,
    kl_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Eq. 10 and 11 with gamma = 0 (eq. 12): ``0.5 * (4 * L1 + 4 * perceptual + kl_weight * KL)``, both
    streams.

    Args:
        output: of `MDSA.forward`.
        video, audio: what it was given.
        frames: ``(B,)``, the frame of each clip that the perceptual term looks at (`draw_frames`).
        masks: samples without a stream do not count in that stream's terms.
        counts: samples with video and with audio that means divide by; None counts `masks`. Where this is one
            of n parts of a batch, 1 / n of the whole batch's.
        pixel_weight: of the mean absolute error.
        l1_beta: errors below it count quadratically; 0 is eq. 11's L1.
        perceptual_weight: of `gradient_l1` on one frame.
        kl_weight: 0 in stage 1, 6e-6 in stage 2.

    Returns:
        0-d tensors: ``loss`` (the total) and, unweighted, ``video_l1``, ``video_perceptual``, ``audio_l1``,
        ``audio_perceptual``, and where `kl_weight` > 0 ``video_kl`` and ``audio_kl``.
    """
    terms: dict[str, Tensor] = {}
    total = torch.zeros((), device=video.device)
    video_count, audio_count = counts or (None, None)
    has_video, has_audio = (None, None) if masks is None else (masks.has_video, masks.has_audio)
    streams: tuple[tuple[str, Tensor, Tensor, Posterior, Tensor | None, Tensor | None], ...] = (
        ("video", output.video, video, output.video_posterior, has_video, video_count),
        ("audio", output.audio, audio, output.audio_posterior, has_audio, audio_count),
    )
    for name, got, want, posterior, present, count in streams:
        got = got.to(want.dtype)
        difference = smooth_l1_loss(got, want, beta=l1_beta, reduction="none")  # L1 itself at beta = 0
        l1 = mean_over_present(difference.flatten(1).mean(1), present, count)
        perceptual = gradient_l1(frame_of_each(got, frames), frame_of_each(want, frames))
        perceptual = mean_over_present(perceptual, present, count)
        terms[f"{name}_l1"], terms[f"{name}_perceptual"] = l1, perceptual
        stream_loss = pixel_weight * l1 + perceptual_weight * perceptual
        if kl_weight > 0:
            terms[f"{name}_kl"] = mean_over_present(posterior.kl(), present, count)
            stream_loss = stream_loss + kl_weight * terms[f"{name}_kl"]
        total = total + STREAM_WEIGHT * stream_loss
    return {"loss": total, **terms}


def mean_over_present(values: Tensor, present: Tensor | None, count: Tensor | None = None) -> Tensor:
    """Mean of ``(B,)`` values over the samples that are present; 0 if none is. Absent values may be NaN.

    `count` stands for how many are present, where that is more than this batch knows.
    """
    if present is None:
        return values.mean()
    count = present.sum().clamp(min=1) if count is None else count
    return torch.where(present, values, 0).sum() / count


def frame_of_each(volume: Tensor, frames: Tensor) -> Tensor:
    """Frame ``frames[b]`` of clip b: ``(B, C, T, H, W)`` to ``(B, C, H, W)``."""
    return volume[torch.arange(volume.shape[0], device=volume.device), :, frames]


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of image gradients at full, half and quarter size, per image: ``(B,)``.

    Stands in for LPIPS where no trunk is at hand: it weighs edges, which L1 alone lets blur.

    Args:
        a, b: images ``(B, C, H, W)``; scales with a side under 2 pixels are left out.
    """
    difference = a - b  # gradients are linear, so that of the difference serves
    total = difference.new_zeros(a.shape[0])
    scales = 0
    for _ in range(NUM_GRADIENT_SCALES):
        if min(difference.shape[-2:]) < 2:
            break
        down = difference.diff(dim=-2).abs().flatten(1).mean(1)
        across = difference.diff(dim=-1).abs().flatten(1).mean(1)
        total = total + down + across
        scales += 1
        difference = avg_pool2d(difference, 2)
    return total / max(scales, 1)
