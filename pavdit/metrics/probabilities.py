"""What a classifier says of clips: inception score, and the divergence from what it says of the originals."""

from __future__ import annotations

import torch
from torch import Tensor

from pavdit.metrics.features import Features, as_features

SUM_SLACK = 1e-3
"""Probabilities of a row may miss 1 by this: bfloat16 rounding, no more."""
KL_FLOOR = 1e-6
"""Added to the probabilities of what was generated, as the peers' evaluations of sound do; without it a class
that a float32 softmax gives 0 makes the mean infinite."""


def inception_score(probabilities: Features, splits: int = 1) -> tuple[float, float]:
    """``exp(mean_i KL(p_i || mean p))``: clear classes, and many of them (Salimans et al., arXiv 1606.03498).

    The rows are cut in the order given into `splits` runs ``[i N // splits, (i + 1) N // splits)``, and each
    is scored alone. What the score means depends on the classifier and the number of rows: say both.

    Args:
        probabilities: ``(N, classes)``, rows that sum to 1.
        splits: how many runs; 10 is StyleGAN-V's, 1 MM-Diffusion's.

    Returns:
        Mean and (population) standard deviation over the runs; from 1 to the number of classes.

    Raises:
        ValueError: other shapes, no probabilities, or fewer rows than runs.
    """
    p = _as_probabilities("inception_score", probabilities)
    if not 1 <= splits <= len(p):
        raise ValueError(f"inception_score: want 1 to {len(p)} splits of {len(p)} rows, got {splits}")
    borders = [i * len(p) // splits for i in range(splits + 1)]
    scores = torch.stack(
        [
            _divergence(run, run.mean(dim=0)).mean().exp()
            for run in (p[begin:end] for begin, end in zip(borders, borders[1:], strict=False))
        ]
    )
    return float(scores.mean()), float(scores.std(correction=0))


def kl_divergence(reference: Features, generated: Features) -> float:
    """Mean over clips of ``KL(reference || generated + KL_FLOOR)``: is the same thing heard or seen?

    Args:
        reference: ``(N, classes)``, rows that sum to 1.
        generated: ``(N, classes)``, row i what was generated for `reference`'s row i.

    Returns:
        Nats.

    Raises:
        ValueError: the shapes differ, or no probabilities.
    """
    p = _as_probabilities("kl_divergence", reference)
    q = _as_probabilities("kl_divergence", generated)
    if p.shape != q.shape:
        raise ValueError(f"kl_divergence: want one shape, got {tuple(p.shape)} and {tuple(q.shape)}")
    return float(_divergence(p, q + KL_FLOOR).mean())


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """``sum p log(p / q)`` per row, with 0 log 0 = 0."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim=1)


def _as_probabilities(name: str, probabilities: Features) -> Tensor:
    p = as_features(name, probabilities)
    off = float((p.sum(dim=1) - 1).abs().max())
    if bool((p < 0).any()) or off > SUM_SLACK:
        raise ValueError(
            f"{name}: want probabilities (rows >= 0 that sum to 1), got a least value of {float(p.min()):g} "
            f"and sums up to {off:g} off"
        )
    return p
