"""axis_attention at the shapes of our models and of its goals: make bench OP=axis_attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Call, Case, main
from pavdit.ops.axis_attention import axis_attention, axis_attention_reference

SHAPES = {  # positions, length, heads, E; the first group lies in cache
    "cpu": [
        (32, 4, 6, 64),
        (32, 8, 6, 64),
        (16, 16, 6, 64),
        (16, 17, 4, 48),
        (8, 33, 4, 48),
        (1024, 4, 4, 64),
        (1024, 6, 4, 64),
        (2048, 16, 4, 64),
        (1024, 17, 4, 48),
        (512, 33, 4, 64),
        (512, 69, 4, 72),
        (70_000, 8, 1, 96),
    ],
    "cuda": [
        (1024, 4, 4, 64),
        (1024, 6, 4, 64),
        (2048, 16, 4, 64),
        (1024, 17, 4, 48),
        (512, 33, 4, 64),
        (25_000, 16, 4, 64),
        (512, 69, 4, 72),
        (65_535, 8, 1, 64),
        (65_536, 8, 1, 64),
        (70_000, 8, 1, 96),
    ],
}
DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16)]


def fused(qkv: Tensor) -> Tensor:
    """PyTorch's own attention on views: at its best, for it may leave its output permuted."""
    q, k, v = qkv.transpose(1, 3).unbind(2)  # (P, A, L, E)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def reference(qkv: Tensor) -> Tensor:
    return axis_attention_reference(qkv, 1, None, None, None, None)


def ours(qkv: Tensor) -> Tensor:
    return axis_attention(qkv, 1)


def forward(op: Callable[[Tensor], Tensor], qkv: Tensor) -> Call:
    """Return a call without gradients."""

    def call() -> Tensor:
        with torch.no_grad():
            return op(qkv)

    return call


def forward_backward(op: Callable[[Tensor], Tensor], qkv: Tensor, grad: Tensor) -> Call:
    """Return a call with the gradient of qkv."""
    leaf = qkv.clone().requires_grad_()
    return lambda: torch.autograd.grad(op(leaf), leaf, grad)


def cases(device: str) -> Iterator[Case]:
    """Forward moves qkv and out; backward reads qkv and grad and writes dqkv."""
    for positions, length, heads, width in SHAPES[device]:
        for name, dtype in DTYPES:
            torch._dynamo.reset()
            ways = {"ours": ours, "reference": reference, "sdpa": fused, "compile": torch.compile(fused)}
            qkv = torch.randn(positions, length, 3, heads, width, device=device).to(dtype)
            grad = torch.randn_like(qkv[:, :, 0])
            shape = f"{positions * heads}x{length}x{width}"
            fwd = {way: forward(op, qkv) for way, op in ways.items()}
            yield Case("fwd", shape, name, fwd, qkv.nbytes + grad.nbytes)
            both = {way: forward_backward(op, qkv, grad) for way, op in ways.items()}
            yield Case("fwd+bwd", shape, name, both, 3 * qkv.nbytes + 2 * grad.nbytes)


if __name__ == "__main__":
    main("axis_attention", cases)
