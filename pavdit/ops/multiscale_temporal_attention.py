"""Attention along time at three temporal resolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from pavdit.ops._attend import attend
from pavdit.ops._checks import check_floating
from pavdit.ops._library import forbid_gradients, register_fake

SCALES = (1, 2, 4)

torch.library.define("pavdit::multiscale_temporal_attention", "(Tensor qkv) -> (Tensor, Tensor, Tensor)")
forbid_gradients("multiscale_temporal_attention")


def multiscale_temporal_attention(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Average-pool q, k and v 1x, 2x and 4x along T and attend along T at each scale, per position of S and
    head.

    ``out_s = Attn_t(AvgPool_s(qkv))`` for s in 1, 2, 4.    Source: PAV-DiT eq. 4 and the Attn_t of eq. 5; the
    transposed convolutions of eq. 5 and their sum are the caller's.

    Pooling after a projection without bias is the same as before it, so one projection serves the three
    scales.

    Args:
        qkv: ``(B, T, S, 3, A, E)``, T a multiple of 4; float32, bfloat16 or float16 (float64: reference
            only). Any strides.

    Returns:
        ``(B, T, S, A, E)``, ``(B, T/2, S, A, E)`` and ``(B, T/4, S, A, E)``, contiguous, dtype of `qkv`;
        pooling and softmax are float32.

    Raises:
        ValueError: another shape, or T is no multiple of 4.
        TypeError: no tensor, or another dtype.
    """
    check_floating("multiscale_temporal_attention", qkv=qkv)
    if qkv.ndim != 6 or qkv.shape[3] != 3 or qkv.shape[5] == 0:
        raise ValueError(f"multiscale_temporal_attention: want qkv (B,T,S,3,A,E), got {tuple(qkv.shape)}")
    if qkv.shape[1] % 4:
        raise ValueError(f"multiscale_temporal_attention: want T a multiple of 4, got {qkv.shape[1]}")
    return multiscale_temporal_attention_reference(qkv)


def multiscale_temporal_attention_reference(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The op in plain PyTorch."""
    b, t, s, _, a, e = qkv.shape
    problems = qkv.transpose(1, 2).reshape(b * s, t, 3, a, e)
    full, half, quarter = (_attend_pooled(problems, scale) for scale in SCALES)  # (B*S, T/scale, A, E)
    return _grid(full, b, s), _grid(half, b, s), _grid(quarter, b, s)


def _attend_pooled(problems: Tensor, scale: int) -> Tensor:
    """``(P, T, 3, A, E)`` to ``(P, T/scale, A, E)``."""
    if scale > 1:
        problems = problems.unflatten(1, (problems.shape[1] // scale, scale)).mean(2)
    q, k, v = problems.unbind(2)
    return attend(q, k, v)


def _grid(out: Tensor, b: int, s: int) -> Tensor:
    return out.reshape(b, s, *out.shape[1:]).transpose(1, 2).contiguous()


torch.library.impl(
    "pavdit::multiscale_temporal_attention",
    "CompositeExplicitAutograd",
    multiscale_temporal_attention_reference,
)


@register_fake("pavdit::multiscale_temporal_attention")
def _(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, t, s, _, a, e = qkv.shape
    full, half, quarter = (qkv.new_empty((b, t // scale, s, a, e)) for scale in SCALES)
    return full, half, quarter
