"""axis_attention at the shapes of our models and of its goals: make bench OP=axis_attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, forward, forward_backward, main
from pavdit.ops import axis_attention, axis_query_attention
from pavdit.ops._axis_reference import axis_attention_reference, axis_query_attention_reference

SHAPES = {  # positions, length, heads, E
    "cpu": [
        (1, 4, 4, 64),  # a small call: what surrounds the arithmetic
        (32, 4, 6, 64),  # from here on in cache
        (32, 6, 6, 64),
        (32, 8, 6, 64),
        (24, 8, 4, 48),
        (24, 8, 4, 72),
        (24, 8, 4, 96),
        (16, 16, 6, 64),
        (16, 17, 4, 48),
        (8, 33, 4, 48),
        (4, 69, 4, 72),
        (1024, 4, 4, 64),  # from here on in memory
        (1024, 6, 4, 64),
        (2048, 16, 4, 64),
        (1024, 17, 4, 48),
        (512, 33, 4, 64),
        (25_000, 16, 4, 64),
        (512, 69, 4, 72),
        (65_535, 8, 1, 48),
        (65_536, 8, 1, 64),
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
QUERY_SHAPES = {"cpu": [(32, 17, 4, 48), (32, 33, 4, 48), (1024, 17, 4, 48)]}
"""The projectors: one query over 16 or 32 tokens and their summary."""
FORWARD_ONLY = 250_000_000
"""Bytes of qkv from which the gradients of all peers together would need too much memory and time."""
DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16)]


def fused(qkv: Tensor) -> Tensor:
    """PyTorch's own attention on views: at its best, for it may leave its output permuted."""
    q, k, v = qkv.transpose(1, 3).unbind(2)  # (P, A, L, E)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def query_fused(q: Tensor, kv: Tensor) -> Tensor:
    """The same for one query."""
    k, v = kv.transpose(1, 3).unbind(2)  # (P, A, L, E)
    return F.scaled_dot_product_attention(q.transpose(1, 3).squeeze(2), k, v).transpose(1, 2)


def reference(qkv: Tensor) -> Tensor:
    return axis_attention_reference(qkv, 1, None, None, None, None)


def query_reference(q: Tensor, kv: Tensor) -> Tensor:
    return axis_query_attention_reference(q, kv, 1, None)


def ours(qkv: Tensor) -> Tensor:
    return axis_attention(qkv, 1)


def query_ours(q: Tensor, kv: Tensor) -> Tensor:
    return axis_query_attention(q, kv, 1)


def cases(device: str) -> Iterator[Case]:
    """Forward moves the inputs and out; backward reads the inputs and grad and writes their gradients."""
    for positions, length, heads, width in SHAPES[device]:
        ways = {"ours": ours, "reference": reference, "sdpa": fused, "compile": torch.compile(fused)}
        shape = f"{positions * heads}x{length}x{width}"
        for name, dtype in DTYPES:
            qkv = torch.randn(positions, length, 3, heads, width, device=device).to(dtype)
            yield from _directions(shape, name, ways, qkv.new_empty(qkv[:, :, 0].shape), qkv)
    for positions, length, heads, width in QUERY_SHAPES[device]:
        ways = {"ours": query_ours, "reference": query_reference, "sdpa": query_fused}
        shape = f"query {positions * heads}x{length}x{width}"
        for name, dtype in DTYPES:
            q = torch.randn(positions, 1, 1, heads, width, device=device).to(dtype)
            kv = torch.randn(positions, length, 2, heads, width, device=device).to(dtype)
            yield from _directions(shape, name, ways, q[:, :, 0], q, kv)


def _directions(
    shape: str, dtype: str, ways: dict[str, Callable[..., Tensor]], out: Tensor, *inputs: Tensor
) -> Iterator[Case]:
    torch._dynamo.reset()
    read = sum(t.nbytes for t in inputs)
    fwd = {way: forward(op, *inputs) for way, op in ways.items()}
    yield Case("fwd", shape, dtype, fwd, read + out.nbytes)
    if read >= FORWARD_ONLY:
        return
    grad = torch.randn(out.shape, device=out.device).to(out.dtype)
    both = {way: forward_backward(op, [grad], *inputs) for way, op in ways.items()}
    yield Case("fwd+bwd", shape, dtype, both, 3 * read + 2 * out.nbytes)


if __name__ == "__main__":
    main("axis_attention", cases)
