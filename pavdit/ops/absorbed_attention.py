"""Cross-attention to few constant tokens whose projections were multiplied into them beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from pavdit.ops._checks import check_floating, check_no_gradient, check_tensor
from pavdit.ops._library import forbid_gradients, native, register_fake, serve_by_triton

MAX_LENGTH = 128
"""Tokens M up to which `make kernels-check` compiles the native kernel."""

torch.library.define(
    "pavdit::absorbed_attention", "(Tensor x, Tensor keys, Tensor bias, Tensor values) -> Tensor"
)
forbid_gradients("absorbed_attention")


def absorbed_attention(x: Tensor, keys: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    r"""``out[b,n] = sum_a softmax_m(x[b,n] . keys[b,a,m] + bias[b,a,m]) values[b,a]``.

    With ``keys = K W_q / sqrt(E)``, ``bias = K b_q / sqrt(E)`` and ``values = V W_o^T + b_o / A`` this is
    multi-head attention of x with its query and output layers: the probabilities of a head sum to 1, so that
    b_o comes out once. It costs 4 D A M flops a row instead of 4 D^2 + 4 D M.    Source: attention of Vaswani
    et al., arXiv 1706.03762, 3.2.2, with the order of its products changed.

    Args:
        x: ``(B, N, D)``, float32, bfloat16 or float16 (the wider ones: reference only).
        keys: ``(B, A, M, D)``, dtype of `x`, A and M > 0.
        bias: ``(B, A, M)`` float32; -inf on padding, at least one token of a row is none.
        values: ``(B, A, M, D)``, dtype of `x`.

    Returns:
        ``(B, N, D)``, dtype of `x`; scores and softmax in float32, probabilities rounded to the dtype of `x`.

    Raises:
        ValueError: a shape or a device does not fit, or a gradient is needed.
        TypeError: a dtype or a type is none of the above.
    """
    _check(x, keys, bias, values)
    check_no_gradient("absorbed_attention", x=x, keys=keys, bias=bias, values=values)
    if not _served(x, keys):
        return absorbed_attention_reference(x, keys, bias, values)
    return torch.ops.pavdit.absorbed_attention(x, keys, bias, values)


def _check(x: Tensor, keys: Tensor, bias: Tensor, values: Tensor) -> None:
    op = "absorbed_attention"
    check_floating(op, x=x, keys=keys, values=values)
    check_tensor(op, "bias", bias)
    if bias.dtype != torch.float32 and not bias.dtype == x.dtype == torch.float64:
        raise TypeError(f"{op}: want bias float32, got {bias.dtype}")
    if bias.device != x.device:
        raise ValueError(f"{op}: want bias on {x.device} as x, got {bias.device}")
    if (
        x.ndim != 3
        or keys.ndim != 4
        or 0 in keys.shape[1:3]
        or keys.shape != values.shape
        or keys.shape[:3] != bias.shape
        or (keys.shape[0], keys.shape[3]) != (x.shape[0], x.shape[2])
    ):
        raise ValueError(
            f"{op}: want x (B,N,D), keys and values (B,A,M,D), bias (B,A,M) with A, M > 0, got "
            f"{tuple(x.shape)}, {tuple(keys.shape)}, {tuple(values.shape)}, {tuple(bias.shape)}"
        )


def _served(x: Tensor, keys: Tensor) -> bool:
    """The kernel is for tensor cores: in full float32 it would spill, and the library's product is better."""
    return native("absorbed_attention", x) and x.dtype != torch.float32 and keys.shape[2] <= MAX_LENGTH


def absorbed_attention_reference(x: Tensor, keys: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    """The op in plain PyTorch: two matrix products and a softmax."""
    scores = x @ keys.flatten(1, 2).transpose(1, 2)  # (B, N, A*M)
    scores = scores.to(bias.dtype) + bias.flatten(1)[:, None]
    probabilities = scores.unflatten(-1, bias.shape[1:]).softmax(-1).flatten(-2)  # (B, N, A*M)
    return probabilities.to(x.dtype) @ values.flatten(1, 2)


def _raw(x: Tensor, keys: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    _check(x, keys, bias, values)
    return absorbed_attention_reference(x, keys, bias, values).contiguous()


def _triton(x: Tensor, keys: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    from pavdit.kernels.absorbed_attention import probabilities

    _check(x, keys, bias, values)
    if not _served(x, keys):
        return _raw(x, keys, bias, values)
    found = probabilities(x.contiguous(), keys.contiguous(), bias.contiguous())  # (B, N, A*M)
    return found @ values.flatten(1, 2)


torch.library.impl("pavdit::absorbed_attention", "CompositeExplicitAutograd", _raw)
serve_by_triton("absorbed_attention", _triton)


@register_fake("pavdit::absorbed_attention")
def _(x: Tensor, keys: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    return x.new_empty(x.shape)
