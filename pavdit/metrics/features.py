"""What every measure of features asks of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Features = Tensor | np.ndarray


def as_features(name: str, features: Features) -> Tensor:
    """``(N, D)`` as a float64 tensor where it lies; `name` begins the message.

    Raises:
        ValueError: another shape, nothing in it, or a value that is not finite.
    """
    x = torch.as_tensor(features)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name}: want features (N,D), got {tuple(x.shape)}")
    x = x.detach().double()
    if not bool(x.isfinite().all()):
        row = int((~x.isfinite()).any(dim=1).nonzero()[0, 0])
        raise ValueError(f"{name}: want finite features, got {x[row].sum():g} in row {row}")
    return x
