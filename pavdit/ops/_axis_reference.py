"""`axis_attention` and `axis_query_attention` in plain PyTorch, with their gradients written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pavdit.ops._attend import attend, attend_backward
from pavdit.ops.qk_norm_rope import norm_and_rotate, norm_and_rotate_backward


def _problems(x: Tensor, axis: int) -> Tensor:
    """``(..., n, A, E)`` to ``(P, L, n, A, E)``: `axis` last among the leading axes, the others flattened."""
    x = x.movedim(axis, -4)
    return x.reshape(math.prod(x.shape[:-4]), *x.shape[-4:])


def _grid(out: Tensor, leading: tuple[int, ...], axis: int) -> Tensor:
    """``(P, L, A, E)`` back to the leading shape, ``(..., A, E)``."""
    others = (*leading[:axis], *leading[axis + 1 :])
    return out.reshape(*others, *out.shape[1:]).movedim(-3, axis).contiguous()


def _valid_problems(valid: Tensor | None, leading: tuple[int, ...], axis: int) -> Tensor | None:
    """A mask that broadcasts to the leading shape as ``(P, L)``."""
    if valid is None:
        return None
    valid = valid.expand(leading).movedim(axis, -1)
    return valid.reshape(math.prod(valid.shape[:-1]), valid.shape[-1])


def axis_attention_reference(
    qkv: Tensor,
    axis: int,
    valid: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    rope: Tensor | None,
) -> Tensor:
    """The op in plain PyTorch: one permuted copy of qkv (none where `axis` is the last leading axis)."""
    leading = qkv.shape[:-3]
    q, k, v = _problems(qkv, axis).unbind(2)  # (P, L, A, E)
    q, k = norm_and_rotate(q, q_weight, rope), norm_and_rotate(k, k_weight, rope)
    return _grid(attend(q, k, v, _valid_problems(valid, leading, axis)), leading, axis)


def axis_query_attention_reference(q: Tensor, kv: Tensor, axis: int, valid: Tensor | None) -> Tensor:
    """The op in plain PyTorch."""
    k, v = _problems(kv, axis).unbind(2)  # (P, L, A, E)
    out = attend(_problems(q, axis).squeeze(2), k, v, _valid_problems(valid, kv.shape[:-3], axis))
    return _grid(out, q.shape[:-3], axis)


def backward_raw(
    grad: Tensor,
    qkv: Tensor,
    axis: int,
    valid: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    rope: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of qkv, q_weight and k_weight; the last two are empty where there is no norm."""
    leading = qkv.shape[:-3]
    q, k, v = _problems(qkv, axis).unbind(2)  # (P, L, A, E)
    turned_q, turned_k = norm_and_rotate(q, q_weight, rope), norm_and_rotate(k, k_weight, rope)
    out_grad = _problems(grad.unsqueeze(-3), axis).squeeze(2)
    dq, dk, dv = attend_backward(out_grad, turned_q, turned_k, v, _valid_problems(valid, leading, axis))
    dq, dq_weight = norm_and_rotate_backward(dq, q, q_weight, rope)
    dk, dk_weight = norm_and_rotate_backward(dk, k, k_weight, rope)
    parts = [_grid(d, leading, axis) for d in (dq, dk, dv)]
    dqkv = torch.stack(parts, -3).to(qkv.dtype)
    if q_weight is None or dq_weight is None or dk_weight is None:
        return dqkv, qkv.new_empty(0), qkv.new_empty(0)
    return dqkv, dq_weight.to(q_weight.dtype), dk_weight.to(q_weight.dtype)


def query_backward_raw(
    grad: Tensor, q: Tensor, kv: Tensor, axis: int, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of q and kv."""
    k, v = _problems(kv, axis).unbind(2)  # (P, L, A, E)
    leading = kv.shape[:-3]
    one, out_grad = (_problems(t, axis).squeeze(2) for t in (q, grad.unsqueeze(-3)))
    dq, dk, dv = attend_backward(out_grad, one, k, v, _valid_problems(valid, leading, axis))
    dkv = torch.stack([_grid(d, leading, axis) for d in (dk, dv)], -3).to(kv.dtype)
    return _grid(dq, q.shape[:-3], axis).unsqueeze(-3).to(q.dtype), dkv
