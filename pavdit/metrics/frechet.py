"""Fréchet distance of two sets of features, each taken as a Gaussian: FVD, FAD, FID, FD of any network.

``|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``    Source: Heusel et al., arXiv 1706.08500, Eq. 6.

Everything is float64. With ``S = F F^T`` from the symmetric eigen-decomposition, the trace of the root is the
sum of the singular values of ``F_a^T F_b``: never complex, no constant added to a diagonal, and no root of a
number that is all rounding.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pavdit.metrics.features import Features, as_features


class Moments:
    """Mean and covariance of features that come in batches; memory does not grow with their number.

    Updates are those of Chan, Golub and LeVeque 1979, which lose no digits where the mean is far from 0.

    Args:
        features: the first batch, as for `add`; None begins empty.

    Attributes:
        count: N, how many features were added.
        mean: ``(D,)`` float64.
    """

    def __init__(self, features: Features | None = None) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)  # sum of (x - mean) (x - mean)^T
        if features is not None:
            self.add(features)

    def add(self, features: Features) -> None:
        """Take in a batch.

        Args:
            features: ``(B, D)``, any floating dtype; D and the device are those of the first batch.

        Raises:
            ValueError: another shape or D, or a value that is not finite.
        """
        batch = as_features("Moments", features)
        if not self.count:
            width = batch.shape[1]
            self.mean, self._scatter = batch.new_zeros(width), batch.new_zeros(width, width)
        elif batch.shape[1] != len(self.mean):
            raise ValueError(f"Moments: want features (B,{len(self.mean)}), got {tuple(batch.shape)}")
        added, total = len(batch), self.count + len(batch)
        mean = batch.mean(dim=0)
        centred, step = batch - mean, mean - self.mean
        self._scatter += centred.T @ centred + torch.outer(step, step) * (self.count * added / total)
        self.mean = self.mean + step * (added / total)
        self.count = total

    def covariance(self, *, biased: bool = False) -> Tensor:
        """``(D, D)`` float64: the scatter over N - 1, or over N.

        Raises:
            ValueError: fewer than 2 features.
        """
        if self.count < 2:
            raise ValueError(f"Moments: want at least 2 features for a covariance, got {self.count}")
        return self._scatter / (self.count if biased else self.count - 1)


def frechet_distance(a: Features | Moments, b: Features | Moments, *, biased: bool = False) -> float:
    """Fréchet distance of two sets; 0 where means and covariances are equal.

    A covariance of N features has rank N - 1 at most, which biases the distance upwards; N <= D is warned of.

    Args:
        a: ``(N, D)`` features of one set, or their moments.
        b: ``(K, D)`` features of the other, or their moments.
        biased: covariances over N, as StyleGAN-V has them, instead of N - 1.

    Returns:
        The distance, in squared units of the features.

    Raises:
        ValueError: other shapes, fewer than 2 features, or a value that is not finite.
    """
    a, b = (x if isinstance(x, Moments) else Moments(x) for x in (a, b))
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"frechet_distance: want features of one width, got {len(a.mean)} and {len(b.mean)}")
    fewest, width = min(a.count, b.count), len(a.mean)
    if fewest <= width:
        warnings.warn(
            f"frechet_distance: want more features than their {width} dimensions, got {fewest}: "
            "the distance is biased upwards",
            stacklevel=2,
        )
    cov_a, cov_b = a.covariance(biased=biased), b.covariance(biased=biased)
    root_trace = torch.linalg.svdvals(_factor(cov_a).T @ _factor(cov_b)).sum()
    distance = (a.mean - b.mean).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace
    return max(0.0, float(distance))  # equal sets give some rounding units of the traces, of either sign


def _factor(covariance: Tensor) -> Tensor:
    """``F (D, rank)`` with ``F F^T = covariance``; eigenvalues that are rounding are left out."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    return vectors[:, kept] * values[kept].sqrt()
