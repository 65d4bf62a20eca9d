"""multiscale_temporal_attention at the shapes of our models, alone and with the deconvolutions of eq. 5 that
follow it in MDSA: make bench OP=multiscale_temporal_attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.harness import Case, forward, forward_backward, main
from pavdit.mdsa.attention import MultiScaleTemporalSelfAttention
from pavdit.ops.multiscale_temporal_attention import (
    SCALES,
    multiscale_temporal_attention,
    multiscale_temporal_attention_reference,
)

SHAPES = {  # batch, T, S, heads of 64; D = 384 has six
    "cpu": [(1, 16, 32, 6), (3, 16, 32, 6), (16, 16, 32, 6), (4, 8, 8, 2), (3, 8, 32, 6), (3, 32, 16, 6)],
    "cuda": [(1, 16, 32, 6), (3, 16, 32, 6), (16, 16, 32, 6), (16, 8, 32, 6), (16, 32, 16, 6)],
}
DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16)]
HEAD_DIM = 64

Op = Callable[[Tensor], tuple[Tensor, ...]]


def with_deconvolutions(shape: tuple[int, int, int, int], like: Tensor) -> Callable[[Op], Op]:
    """Return what adds eq. 5's sum of transposed convolutions to an op."""
    batch, frames, positions, heads = shape
    width = heads * HEAD_DIM
    layer = MultiScaleTemporalSelfAttention(width, heads, HEAD_DIM, True).to(like)
    z = torch.randn(batch, frames, positions, width).to(like)

    def whole(op: Op) -> Op:
        return lambda qkv: (layer.add_deconvolutions(z, op(qkv)),)

    return whole


def cases(device: str) -> Iterator[Case]:
    """Forward moves qkv and the three outputs; backward reads qkv and their gradients and writes dqkv. With
    the deconvolutions, the outputs are read, z is read and written."""
    for shape in SHAPES[device]:
        batch, frames, positions, heads = shape
        for name, dtype in DTYPES:
            torch._dynamo.reset()
            qkv = torch.randn(batch, frames, positions, 3, heads, HEAD_DIM, device=device).to(dtype)
            grads = tuple(
                torch.randn(batch, frames // k, positions, heads, HEAD_DIM, device=device).to(dtype)
                for k in SCALES
            )
            ways = {
                "ours": multiscale_temporal_attention,
                "reference": multiscale_temporal_attention_reference,
                "compile": torch.compile(multiscale_temporal_attention_reference),
            }
            text = f"{batch}x{frames}x{positions}x{heads * HEAD_DIM}"
            out_bytes = sum(grad.nbytes for grad in grads)
            fwd = {way: forward(op, qkv) for way, op in ways.items()}
            yield Case("fwd", text, name, fwd, qkv.nbytes + out_bytes)
            both = {way: forward_backward(op, grads, qkv) for way, op in ways.items()}
            yield Case("fwd+bwd", text, name, both, 3 * qkv.nbytes + 2 * out_bytes)
            whole = with_deconvolutions(shape, qkv)
            del ways["compile"]  # what surrounds it is the same
            fwd = {way: forward(whole(op), qkv) for way, op in ways.items()}
            yield Case("+deconv", text, name, fwd, qkv.nbytes + 2 * out_bytes + 2 * grads[0].nbytes)


if __name__ == "__main__":
    main("multiscale_temporal_attention", cases)
