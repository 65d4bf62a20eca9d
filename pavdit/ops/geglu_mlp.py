"""An MLP with GEGLU in one call, its hidden values never in memory as a whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pavdit.ops._checks import check_for_autocast
from pavdit.ops._library import native
from pavdit.ops._raw import call, forbid_gradients, register_fake

torch.library.define(
    "pavdit::geglu_mlp",
    "(Tensor x, Tensor weight_in, Tensor bias_in, Tensor weight_out, Tensor bias_out) -> Tensor",
)
forbid_gradients("geglu_mlp")

_forward = torch.ops.pavdit.geglu_mlp.default


def geglu_mlp(x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor) -> Tensor:
    r"""``(value * gelu(gate)) weight_out^T + bias_out`` with ``(value, gate) = x weight_in^T + bias_in``.

    GELU is the exact one.    Source: GEGLU, Shazeer, arXiv 2002.05202; Hendrycks & Gimpel, arXiv 1606.08415.

    Without gradients a CPU takes some rows at a time through all of it. With gradients, and elsewhere, every
    step stands alone.

    Args:
        x: ``(..., D)``, float32, bfloat16 or float16 (float64: reference only).
        weight_in: ``(2 * hidden, D)``: rows of the value, then of the gate; dtype and device of `x`; autocast
            may cast all five.
        bias_in: ``(2 * hidden,)``, dtype and device of `x`.
        weight_out: ``(columns, hidden)``, dtype and device of `x`.
        bias_out: ``(columns,)``, dtype and device of `x`.

    Returns:
        ``(..., columns)``, dtype of `x`, under autocast its dtype.

    Raises:
        ValueError: a shape or a device does not fit.
        TypeError: a dtype or a type is none of the above.
    """
    given = x, weight_in, bias_in, weight_out, bias_out
    if _check(*given) or torch.is_grad_enabled() or not native("geglu_mlp", x):
        return geglu_mlp_reference(*given)
    return call(_forward, *given)


def _check(x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor) -> bool:
    """Returns whether autocast casts what is given."""
    op = "geglu_mlp"
    weights = {
        "weight_in": weight_in, "bias_in": bias_in, "weight_out": weight_out, "bias_out": bias_out,
    }  # fmt: skip
    autocast = check_for_autocast(op, x, **weights)
    if (
        x.ndim < 1
        or weight_in.ndim != 2
        or weight_out.ndim != 2
        or weight_in.shape != (2 * weight_out.shape[1], x.shape[-1])
        or bias_in.shape != weight_in.shape[:1]
        or bias_out.shape != weight_out.shape[:1]
    ):
        shapes = ", ".join(str(tuple(t.shape)) for t in (x, *weights.values()))
        raise ValueError(
            f"{op}: want x (...,D), weight_in (2*hidden,D), bias_in (2*hidden,), "
            f"weight_out (columns,hidden), bias_out (columns,), got {shapes}"
        )
    return autocast


def geglu_mlp_reference(
    x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor
) -> Tensor:
    """The op in plain PyTorch."""
    value, gate = functional.linear(x, weight_in, bias_in).chunk(2, dim=-1)  # (..., hidden) each
    return functional.linear(value * functional.gelu(gate), weight_out, bias_out)


torch.library.impl("pavdit::geglu_mlp", "CompositeExplicitAutograd", geglu_mlp_reference)


@register_fake("pavdit::geglu_mlp")
def _(x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight_out.shape[0]))
