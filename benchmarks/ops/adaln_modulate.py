"""adaln_modulate at the shapes of our models: make bench OP=adaln_modulate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, forward, forward_backward, main
from pavdit.ops.adaln_modulate import adaln_modulate

SHAPES = {  # the shape of x, and G
    "cpu": [
        ((1, 6, 256, 1152), 1),
        ((1, 4, 256, 768), 4),
        ((2, 6, 64, 384), 2),
        ((4, 4, 1024, 768), 1),
        ((64, 6, 256, 384), 6),
    ],
    "cuda": [
        ((1, 4, 256, 1152), 1),
        ((1, 6, 256, 1152), 6),
        ((16, 4, 256, 1152), 1),
        ((16, 4, 256, 768), 2),
        ((96, 4, 256, 1152), 4),
        ((64, 6, 256, 384), 2),
    ],
}
DTYPES = [
    ("fp32", torch.float32, torch.float32),
    ("bf16", torch.bfloat16, torch.bfloat16),
    ("bf16+fp32 mod", torch.bfloat16, torch.float32),
    ("fp16", torch.float16, torch.float16),
]


def eager(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """What one would write with PyTorch's own layer_norm."""
    groups = shift.shape[1]
    rows = x.unflatten(1, (groups, x.shape[1] // groups))
    normal = F.layer_norm(rows, rows.shape[-1:], eps=1e-6)
    return (normal * (1 + scale[:, :, None, None]) + shift[:, :, None, None]).flatten(1, 2).to(x.dtype)


def cases(device: str) -> Iterator[Case]:
    """Forward moves x and out; backward moves grad, x and dx more."""
    for (batch, frames, tokens, width), groups in SHAPES[device]:
        for name, dtype, modulation in DTYPES:
            torch._dynamo.reset()
            ways = {"ours": adaln_modulate, "eager": eager, "compile": torch.compile(eager)}
            x = torch.randn(batch, frames, tokens, width, device=device).to(dtype)
            shift, scale = torch.randn(2, batch, groups, width, device=device).to(modulation).unbind()
            grad = torch.randn_like(x)
            shape = ",".join(map(str, x.shape))
            inputs = [x, shift, scale]
            fwd = {way: forward(op, *inputs) for way, op in ways.items()}
            yield Case("fwd", shape, name, fwd, 2 * x.nbytes)
            both = {way: forward_backward(op, [grad], *inputs) for way, op in ways.items()}
            yield Case("fwd+bwd", shape, name, both, 5 * x.nbytes)


if __name__ == "__main__":
    main("adaln_modulate", cases)
