"""The autoencoder's objective (PAV-DiT eq. 10, 11) without its adversarial terms, which are in `adversarial`.

Eq. 12 sets gamma = 0 until the discriminators start, so this is all of the first stage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, log_softmax, smooth_l1_loss

from pavdit.mdsa.autoencoder import Reconstruction
from pavdit.mdsa.streams import StreamMasks

STREAM_WEIGHT = 0.5
"""omega_m of eq. 10."""

KL_WEIGHT = 6e-6

NUM_GRADIENT_SCALES = 3

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of two batches of pictures ``(B, C, H, W)``, per picture: ``(B,)``."""


def draw_frames(batch: int, num_frames: int, generator: torch.Generator | None = None) -> Tensor:
    """One frame index per clip, ``(B,)`` int64, for the perceptual term."""
    device = None if generator is None else generator.device
    return torch.randint(num_frames, (batch,), generator=generator, device=device)


def mdsa_loss(
    output: Reconstruction,
    video: Tensor | None,
    audio: Tensor | None,
    frames: Tensor,
    masks: StreamMasks | None = None,
    counts: tuple[Tensor, Tensor] | None = None,
    *,
    pixel_weight: float = 4.0,
    l1_beta: float = 0.0,
    perceptual_weight: float = 4.0,
    perceptual: Distance | None = None,
    kl_target: Literal["latent", "output"] | None = None,
) -> dict[str, Tensor]:
    """Eq. 10 and 11 with gamma = 0 (eq. 12): ``0.5 * (4 * L1 + 4 * perceptual + 6e-6 * KL)``, both streams.

    Args:
        output: of `MDSA.forward`.
        video, audio: what it was given; a stream that is None has no terms.
        frames: ``(B,)``, the frame of each clip that the perceptual term looks at (`draw_frames`).
        masks: samples without a stream do not count in that stream's terms.
        counts: samples with video and with audio that means divide by; None counts `masks`. Where this is one
            of n parts of a batch, 1 / n of the whole batch's.
        pixel_weight: of the mean absolute error.
        l1_beta: errors below it count quadratically; 0 is eq. 11's L1.
        perceptual_weight: of `perceptual` on one frame.
        perceptual: distance of pictures, 3 channels of frames or 1 of mel images; None is `gradient_l1`.
        kl_target: None in stage 1; in stage 2 what the KL term is of, see `MDSAConfig.kl_target`.

    Returns:
        0-d tensors: ``loss`` (the total) and, unweighted, ``video_l1``, ``video_perceptual``, ``audio_l1``,
        ``audio_perceptual``, and with a `kl_target` ``video_kl`` and ``audio_kl``.
    """
    terms: dict[str, Tensor] = {}
    total = torch.zeros((), device=frames.device)
    distance = perceptual or gradient_l1
    video_count, audio_count = counts or (None, None)
    has_video, has_audio = (None, None) if masks is None else (masks.has_video, masks.has_audio)
    streams = (
        ("video", output.video, video, output.video_posterior, has_video, video_count),
        ("audio", output.audio, audio, output.audio_posterior, has_audio, audio_count),
    )
    for name, got, want, posterior, present, count in streams:
        if got is None or want is None or posterior is None:
            continue
        got = got.to(want.dtype)
        difference = smooth_l1_loss(got, want, beta=l1_beta, reduction="none")  # L1 itself at beta = 0
        l1 = mean_over_present(difference.flatten(1).mean(1), present, count)
        seen = distance(frame_of_each(got, frames), frame_of_each(want, frames))
        terms[f"{name}_l1"], terms[f"{name}_perceptual"] = l1, mean_over_present(seen, present, count)
        stream_loss = pixel_weight * l1 + perceptual_weight * terms[f"{name}_perceptual"]
        if kl_target is not None:
            kl = posterior.kl() if kl_target == "latent" else output_kl(got, want)
            terms[f"{name}_kl"] = mean_over_present(kl, present, count)
            stream_loss = stream_loss + KL_WEIGHT * terms[f"{name}_kl"]
        total = total + STREAM_WEIGHT * stream_loss
    return {"loss": total, **terms}


def output_kl(got: Tensor, want: Tensor) -> Tensor:
    """Eq. 11's D_KL(Q(x^) || P(x)) to the letter, per clip: ``(B,)``.

    The paper does not say how a clip is a distribution; here Q and P are the softmax over all its values.
    """
    log_q, log_p = (log_softmax(x.flatten(1), dim=1) for x in (got, want))
    return (log_q.exp() * (log_q - log_p)).sum(1)


def mean_over_present(values: Tensor, present: Tensor | None, count: Tensor | None = None) -> Tensor:
    """Mean of ``(B,)`` values over the samples that are present; 0 if none is. Absent values may be NaN.

    `count` stands for how many are present, where the batch is more than these samples.
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
