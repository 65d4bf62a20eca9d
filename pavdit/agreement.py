"""How far one sample is from another of the same noise: what a cheaper way of sampling costs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pavdit.codec import Codec
from pavdit.latents import PlaneLayout
from pavdit.metrics.signal import psnr


@dataclass(frozen=True, slots=True)
class Agreement:
    """Means over a batch.

    Attributes:
        latent_rms: ``|P - P_exact| / |P_exact|``, root mean squares.
        frames_db: peak signal-to-noise ratio of the decoded frames, dB; inf where they are equal.
        mel_db: root mean square of the difference of the decoded mel images, dB of level.
    """

    latent_rms: float
    frames_db: float
    mel_db: float

    @classmethod
    def of(cls, codec: Codec, layout: PlaneLayout, latent: Tensor, exact: Tensor) -> Agreement:
        """Compare two batches of P ``(B, C, G, rows, columns)``, also as `codec` decodes them."""
        (frames, images), (exact_frames, exact_images) = (
            codec.to_frames(*layout.unstack(p)) for p in (latent, exact)
        )
        assert frames is not None and exact_frames is not None  # noqa: S101 - both streams are decoded
        assert images is not None and exact_images is not None  # noqa: S101
        db_of_one = (
            -codec.config.mel.floor_db / 2
        )  # mel images in [-1, 1] span the levels from the floor to 0
        return cls(
            float((latent - exact).double().norm() / exact.double().norm()),
            float(psnr(frames.float(), exact_frames.float(), peak=255.0).mean()),
            db_of_one * float((images - exact_images).double().square().mean().sqrt()),
        )

    def __str__(self) -> str:
        return (
            f"P off by {self.latent_rms:.2%} (relative RMS), frames {self.frames_db:.1f} dB PSNR, "
            f"mel {self.mel_db:.2f} dB RMS"
        )
