"""Measures on inputs whose answers are known: are this installation and this I3D what they seem?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pavdit.clip import ClipSpec
from pavdit.data.bounce import BounceClips
from pavdit.metrics.av_align import coinciding
from pavdit.metrics.event_sync import event_sync
from pavdit.metrics.frechet import frechet_distance
from pavdit.metrics.i3d import i3d_input
from pavdit.metrics.kernel_distance import kernel_distance
from pavdit.metrics.networks import Network
from pavdit.metrics.probabilities import inception_score
from pavdit.metrics.signal import psnr

PUBLISHED_FVD, PUBLISHED_SLACK = 152.9175, 1.0
"""FVD of black against white clips of 16 frames with the Kinetics-400 weights, as common_metrics publishes it
with its fluctuation (github.com/JunyaoHu/common_metrics_on_video_quality)."""


@dataclass(frozen=True, slots=True)
class Check:
    """A case.

    Attributes:
        name: what is measured.
        want: the answer.
        got: by this installation.
        slack: how far they may differ.
    """

    name: str
    want: float
    got: float
    slack: float

    @property
    def is_right(self) -> bool:
        """Whether it is near enough."""
        return abs(self.got - self.want) <= self.slack

    def __str__(self) -> str:
        word = "ok" if self.is_right else "WRONG"
        return f"{word:<6}{self.name}: want {self.want:g} within {self.slack:g}, got {self.got:g}"


def checks(i3d: Network | None) -> Iterator[Check]:
    """Cases with known answers; with an I3D also the published one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 8, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.5, 2, 8, dtype=torch.float64)
    white = torch.linalg.qr(x - x.mean(dim=0)).Q * math.sqrt(len(x) - 1)  # mean 0, covariance exactly 1
    yield Check("Fréchet distance of a set to itself", 0.0, frechet_distance(x, x), 1e-9)
    known = float(8 * 3.0**2 + (scale - 1).square().sum())
    yield Check("Fréchet distance of two Gaussians", known, frechet_distance(white, white * scale + 3), 1e-6)
    points = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[2.0], [0.0]])
    # mean over pairs of (xy + 1)^3: (1 + 1 + 64) / 3 and 1; across (1 + 1 + 27 + 1 + 343 + 1) / 6
    yield Check("kernel distance of five numbers", 22 + 1 - 2 * 374 / 6, kernel_distance(*points), 1e-9)
    yield Check("inception score of ten sure classes", 10.0, inception_score(torch.eye(10))[0], 1e-9)
    grey = torch.full((1, 4), 0.5)
    yield Check("PSNR of an error of 0.1, dB", 20.0, float(psnr(grey, grey + 0.1, 1.0)), 1e-5)
    times = torch.tensor([0.1, 0.14, 0.5]).numpy(), torch.tensor([0.12, 0.9]).numpy()
    yield Check("AV-Align: onsets that coincide, 2025", 1.0, coinciding(*times, 10.0, "2025"), 0.0)
    yield Check("AV-Align: onsets that coincide, 2023", 2.0, coinciding(*times, 10.0, "2023"), 0.0)
    clips = BounceClips(8, ClipSpec(16, 64, 64), seed=0)
    sync = event_sync(clips.read(i) for i in range(8))["pairs"]
    yield Check("event sync of true clips, mean offset, ms", 0.0, sync.mean_offset_ms, 15.0)
    if i3d is not None:
        black = torch.zeros(1, 16, 3, 64, 64, dtype=torch.uint8)
        a, b = (i3d.run(i3d_input(frames)).expand(8, -1) for frames in (black, ~black))
        got = float((a[0].double() - b[0].double()).square().sum())  # equal clips: covariances are 0
        yield Check(f"FVD of black against white clips, {i3d.name}", PUBLISHED_FVD, got, PUBLISHED_SLACK)
