"""The softmax attention that the references of the attention ops share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_PROBLEMS = 65_535
"""CUDA's fused attention launches the batch as a grid's y or z, which ends here."""


def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(E)) v`` for P problems.

    A key that is not valid has weight 0 whatever is stored there; a row with no valid key gives 0.

    Args:
        q: ``(P, Q, A, E)``.
        k: ``(P, N, A, E)``.
        v: ``(P, N, A, E)``.
        valid: bool ``(P, N)`` or None.

    Returns:
        ``(P, Q, A, E)``, dtype of `q`.
    """
    if q.numel() == 0:  # torch 2.11 divides by the number of heads
        return q + (k.sum() + v.sum()).to(q.dtype)
    mask = None
    if valid is not None:
        # With its keys and values zeroed, a row that has no valid key may see them all: it gives 0 and
        # gradient 0 on every backend, where -inf everywhere would give NaN on some.
        empty = ~valid[:, :, None, None]
        k, v = k.masked_fill(empty, 0.0), v.masked_fill(empty, 0.0)
        mask = (valid | ~valid.any(1, keepdim=True))[:, None, None, :]  # (P, 1, 1, N)
    if q.shape[0] > MAX_PROBLEMS:
        starts = range(0, q.shape[0], MAX_PROBLEMS)
        pieces = [slice(start, start + MAX_PROBLEMS) for start in starts]
        return torch.cat([_sdpa(q[i], k[i], v[i], None if mask is None else mask[i]) for i in pieces])
    return _sdpa(q, k, v, mask)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (P, A, N, E)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).to(v.dtype)


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of `attend` for q, k, v, written out, in float32 (float64 stays).

    Args:
        grad: gradient of the result, ``(P, Q, A, E)``.
        q, k, v, valid: as for `attend`.
    """
    work = torch.promote_types(q.dtype, torch.float32)
    grad, q, k, v = (t.to(work).transpose(1, 2) for t in (grad, q, k, v))  # (P, A, N, E)
    scale = q.shape[-1] ** -0.5
    if valid is not None:
        k, v = (t.masked_fill(~valid[:, None, :, None], 0.0) for t in (k, v))
    scores = q @ k.mT * scale  # (P, A, Q, N)
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
    weights = scores.softmax(-1)
    if valid is not None:
        weights = weights.masked_fill(~valid[:, None, None], 0.0)  # NaN where no key is valid
    dweights = grad @ v.mT
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdim=True)) * scale
    dq, dk, dv = dscores @ k, dscores.mT @ q, weights.mT @ grad
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)
