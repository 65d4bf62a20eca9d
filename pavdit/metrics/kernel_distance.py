"""Kernel distance of two sets of features: KVD on video features, KID on those of pictures.

The unbiased estimate of the squared maximum mean discrepancy with the kernel ``k(x, y) = (x.y / D + 1)^3``
(Bińkowski et al., arXiv 1801.01401, section 4), over all features at once, neither scaled nor cut into
subsets. Unlike the Fréchet distance it has no bias for few features; near 0 it may be negative.
"""

from __future__ import annotations

from torch import Tensor

from pavdit.metrics.features import Features, as_features

ROWS = 1024
"""Of the kernel matrix at a time."""


def kernel_distance(a: Features, b: Features) -> float:
    """Squared maximum mean discrepancy.

    Args:
        a: ``(N, D)``, any floating dtype.
        b: ``(K, D)``.

    Returns:
        ``mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)``.

    Raises:
        ValueError: other shapes, fewer than 2 features, or a value that is not finite.
    """
    a, b = as_features("kernel_distance", a), as_features("kernel_distance", b)
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"kernel_distance: want at least 2 features of one width in both, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    within = sum((_kernel_sum(x, x) - _self_sum(x)) / (len(x) * (len(x) - 1)) for x in (a, b))
    return within - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def _kernel(products: Tensor, width: int) -> Tensor:
    return (products / width + 1) ** 3


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    """Sum over all pairs."""
    return sum(float(_kernel(rows @ b.T, a.shape[1]).sum()) for rows in a.split(ROWS))


def _self_sum(a: Tensor) -> float:
    """Sum over the pairs of a feature with itself."""
    return float(_kernel(a.square().sum(dim=1), a.shape[1]).sum())
