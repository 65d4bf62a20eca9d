"""Whether what was made for an input belongs to it: its distance to the right clip against others'."""

from __future__ import annotations

import torch
from torch import Tensor


def pair_distances(made: Tensor, real: Tensor) -> Tensor:
    """Root mean squared difference of every made one to every real one.

    Args:
        made: ``(N, ...)``.
        real: ``(N, ...)``, row i the one that belongs to `made`'s row i.

    Returns:
        ``(N, N)`` float32, right pairs on the diagonal.

    Raises:
        ValueError: the shapes differ, or there are fewer than 2.
    """
    if made.shape != real.shape or len(made) < 2:
        raise ValueError(
            f"pair_distances: want made and real of one shape, at least 2, got {tuple(made.shape)} and "
            f"{tuple(real.shape)}"
        )
    made, real = made.float().flatten(1), real.float().flatten(1)
    return torch.cdist(made, real) / made.shape[1] ** 0.5


def right_against_wrong(distances: Tensor) -> dict[str, float]:
    """What `pair_distances` says in three numbers.

    Returns:
        ``right``: mean distance of right pairs. ``wrong``: of wrong pairs. ``rank``: share of the wrong ones
        that are farther than the right one; 0.5 is chance, 1 is always.
    """
    count = len(distances)
    right = distances.diagonal()
    wrong = ~torch.eye(count, dtype=torch.bool, device=distances.device)
    farther = (distances > right[:, None]).float() + 0.5 * (distances == right[:, None]).float()
    return {
        "right": right.mean().item(),
        "wrong": distances[wrong].mean().item(),
        "rank": farther[wrong].mean().item(),
    }
