"""Are generated clips new? Their distances to the nearest training clip, beside those of reference clips."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pavdit.evaluation.sets import EvaluationSet
from pavdit.metrics.nearest import Nearest, Space

SHOWN = 5
NEAR = 0.05
"""A generated clip is near where it is nearer to the training than all but this share of the reference."""
ROWS = 1024
"""Training clips at a time."""


def name_of(clips: EvaluationSet, place: int) -> str:
    """A clip's file and beginning, or what it is drawn from."""
    record = clips.record(place)
    return record.origin if record.path is None else f"{record.path}@{record.origin}"


def closest(
    generated: tuple[EvaluationSet, list[int], Tensor],
    reference: Tensor,
    training: tuple[EvaluationSet, list[int], Tensor],
    num_frames: int,
) -> dict[str, object]:
    """Compare looks (`pavdit.metrics.nearest`); 0 is a copy, 1 the mean distance of unrelated clips.

    Args:
        generated: the set, the places in it, and their looks ``(N, F)``.
        reference: looks ``(M, F)`` of at least 2 real clips, which give the unit.
        training: as `generated`.
        num_frames: T.

    Returns:
        For JSON: quantiles of both sides' distances, the share of generated clips that are near, and the
        nearest pairs.
    """
    space = Space(reference.numpy(), num_frames, torch.device("cpu"))
    ours, theirs = Nearest(space, generated[2].numpy()), Nearest(space, reference.numpy())
    for first in range(0, len(training[2]), ROWS):
        rows = training[2][first : first + ROWS].numpy()
        places, points = np.arange(first, first + len(rows)), space.place(rows)
        ours.meet(places, points)
        theirs.meet(places, points)
    far = theirs.distance.numpy()
    order = ours.distance.argsort()[:SHOWN].tolist()
    shares = {"least": 0.0, "5 %": 0.05, "median": 0.5}
    return {
        "training": training[0].about,
        "compared": len(training[2]),
        "generated": {name: float(np.quantile(ours.distance.numpy(), q)) for name, q in shares.items()},
        "reference": {name: float(np.quantile(far, q)) for name, q in shares.items()},
        "share_nearer_than_95_percent_of_reference": float(
            (ours.distance.numpy() < np.quantile(far, NEAR)).mean()
        ),
        "nearest": [
            {
                "generated": name_of(generated[0], generated[1][i]),
                "training": name_of(training[0], training[1][int(ours.index[i])]),
                "distance": float(ours.distance[i]),
            }
            for i in order
        ],
    }
