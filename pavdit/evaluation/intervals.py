"""How sure a number is: 95 % intervals by the bootstrap over clips.

Clips of both sides are drawn again with replacement, and the number is computed of each draw. A draw repeats
clips, which shifts a Fréchet distance upwards; draws of it are moved to have their mean at the number: the
interval says how far it scatters at this count of clips, and not what it would be with more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COVERED = 0.95
Draw = Callable[[Tensor, Tensor], float]
"""From how often each clip of either side counts, ``(N,)`` and ``(K,)`` float64, to the number."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a number lies; nan without draws."""

    low: float
    high: float


def bootstrap(
    value: float,
    draw: Draw,
    counts: tuple[int, int],
    draws: int,
    seed: int,
    *,
    moved: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> Interval:
    """The interval of a number.

    Args:
        value: the number of all clips.
        draw: the number of some of them.
        counts: of the clips on both sides.
        draws: how often they are drawn; 0: no interval.
        seed: of what is drawn.
        moved: draws are shifted, and are to have their mean at `value`.
        tell: called with how many draws are done, and of how many.
    """
    if not draws:
        return Interval(np.nan, np.nan)
    found = np.empty(draws)
    for i, weights in enumerate(_weights(counts, draws, seed)):
        found[i] = draw(*weights)
        if tell is not None:
            tell(i + 1, draws)
    found = found[np.isfinite(found)]  # a draw without any event has no mean offset
    if not len(found):
        return Interval(np.nan, np.nan)
    if moved:
        found += value - found.mean()
    low, high = np.quantile(found, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Interval(float(low), float(high))


def _weights(counts: tuple[int, int], draws: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        a, b = (np.bincount(rng.integers(n, size=n), minlength=n) if n else np.zeros(0) for n in counts)
        yield torch.from_numpy(a).double(), torch.from_numpy(b).double()


def frechet_draw(a: Tensor, b: Tensor, *, biased: bool) -> Draw:
    """Fréchet distance of weighted clips.

    ``tr (S_a S_b)^(1/2)`` is the sum of the singular values of ``R_a R_b^T`` for any ``S = R^T R``: the
    centred features themselves where they are few, else the triangle of their QR decomposition.

    Args:
        a: ``(N, K, D)``, K features of every clip, which are drawn together.
        b: ``(M, K, D)``.
        biased: covariances over N.
    """

    def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept = weights > 0
        rows = x[kept].flatten(0, 1)
        w = weights[kept].repeat_interleave(x.shape[1])[:, None]
        mean = (w * rows).sum(dim=0) / w.sum()
        centred = (rows - mean) * (w / (w.sum() - (0 if biased else 1))).sqrt()
        few = len(centred) <= centred.shape[1]
        return mean, centred.square().sum(), centred if few else torch.linalg.qr(centred, mode="r").R

    a, b = a.double(), b.double()

    def draw(weights_a: Tensor, weights_b: Tensor) -> float:
        mean_a, total_a, root_a = moments(a, weights_a)
        mean_b, total_b, root_b = moments(b, weights_b)
        shared = torch.linalg.svdvals(root_a @ root_b.T).sum()
        return float((mean_a - mean_b).square().sum() + total_a + total_b - 2 * shared)

    return draw


def kernel_draw(a: Tensor, b: Tensor) -> Draw:
    """Kernel distance of weighted clips ``(N, D)``, ``(M, D)``; a clip drawn twice is no pair with itself."""
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)

    def within(k: Tensor, w: Tensor) -> Tensor:
        return (w @ k @ w - (w.square() * k.diagonal()).sum()) / (w.sum().square() - w.square().sum())

    def draw(weights_a: Tensor, weights_b: Tensor) -> float:
        cross = weights_a @ ab @ weights_b / (weights_a.sum() * weights_b.sum())
        return float(within(aa, weights_a) + within(bb, weights_b) - 2 * cross)

    return draw


def ratio_draw(numerator: Tensor, denominator: Tensor) -> Draw:
    """Sum over sum, ``(N,)`` each; a mean where every denominator is 1. The other side does not count."""
    numerator, denominator = numerator.double(), denominator.double()

    def draw(weights: Tensor, _: Tensor) -> float:
        below = float(weights @ denominator)
        return float(weights @ numerator) / below if below else float("nan")

    return draw
