"""A linear layer and its tanh-GELU in one call, where the library's GEMM does both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pavdit.ops._checks import check_for_autocast
from pavdit.ops._library import native, serve_by_torch
from pavdit.ops._raw import call, forbid_gradients, register_fake

for _name in ("linear_gelu", "linear_gelu_onednn"):
    torch.library.define(f"pavdit::{_name}", "(Tensor x, Tensor weight, Tensor bias) -> Tensor")
    forbid_gradients(_name)

_forward = torch.ops.pavdit.linear_gelu.default
_by_onednn = torch.ops.pavdit.linear_gelu_onednn.default

ONEDNN_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""``gelu(x weight^T + bias)``, GELU in its tanh form.    Source: the MLP of Open-Sora 1.2, STDiT3
    (PAV-DiT 3.2); Hendrycks & Gimpel, arXiv 1606.08415.

    Without gradients the GELU is the GEMM's epilogue for 16 bit on CUDA (cuBLASLt's) and for bfloat16 on CPUs
    that have it (oneDNN's): the float32 forms of both err more than twice as much as two steps do. On a CPU
    it is otherwise one pass with the bias, in place. With gradients, and elsewhere, two steps.

    Args:
        x: ``(..., D)``, float32, bfloat16 or float16 (float64: two steps).
        weight: ``(hidden, D)``, dtype and device of `x`; autocast may cast all three.
        bias: ``(hidden,)``, dtype and device of `x`.

    Returns:
        ``(..., hidden)``, dtype of `x`, under autocast its dtype.

    Raises:
        ValueError: a shape or a device does not fit.
        TypeError: a dtype or a type is none of the above.
    """
    op = "linear_gelu"
    autocast = check_for_autocast(op, x, weight=weight, bias=bias)
    if x.ndim < 1 or weight.ndim != 2 or bias.shape != weight.shape[:1] or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{op}: want x (...,D), weight (hidden,D), bias (hidden,), "
            f"got {tuple(x.shape)}, {tuple(weight.shape)}, {tuple(bias.shape)}"
        )
    if autocast or torch.is_grad_enabled() or not native("linear_gelu", x):
        return linear_gelu_reference(x, weight, bias)
    by_onednn = x.dtype == torch.bfloat16 and native("linear_gelu_onednn", x)
    return call(_by_onednn if by_onednn else _forward, x, weight, bias)


def linear_gelu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The op in plain PyTorch."""
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.dtype != torch.bfloat16 or x.numel() == 0 or weight.numel() == 0:
        return linear_gelu_reference(x, weight, bias)
    x, weight = x.contiguous(), weight.contiguous()  # it takes strides for what they are not
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias.contiguous(), "gelu", [], "tanh")


def _on_cuda(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # without columns it forgets the bias, and its float32 form errs ten times as much as two steps do
    if x.dtype == torch.float32 or x.numel() == 0 or weight.numel() == 0:
        return linear_gelu_reference(x, weight, bias)
    rows = torch._addmm_activation(bias, x.reshape(-1, x.shape[-1]), weight.t(), use_gelu=True)
    return rows.view(*x.shape[:-1], weight.shape[0])


def _fake(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


for _name in ("linear_gelu", "linear_gelu_onednn"):
    torch.library.impl(f"pavdit::{_name}", "CompositeExplicitAutograd", linear_gelu_reference)
    register_fake(f"pavdit::{_name}")(_fake)
serve_by_torch("linear_gelu", "cuda", _on_cuda, "cuBLASLt, 16 bit only")
if ONEDNN_HAS_BFLOAT16:
    serve_by_torch("linear_gelu_onednn", "cpu", _onednn, "oneDNN, bfloat16 only")
