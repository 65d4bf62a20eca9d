"""gated_residual_adaln at the shapes of our models: make bench OP=gated_residual_adaln."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, forward, forward_backward, main
from pavdit.ops.adaln_modulate import adaln_modulate
from pavdit.ops.gated_residual_adaln import close_residual, gated_residual_adaln

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
]
Pair = tuple[Tensor, Tensor]
Op = Callable[..., Pair]


def eager(x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor) -> Pair:
    """What one would write with PyTorch's own layer_norm."""
    groups = shift.shape[1]
    x_rows, y_rows = (t.unflatten(1, (groups, t.shape[1] // groups)) for t in (x, y))  # (B, G, F/G, N, D)
    branch = y_rows if gate is None else gate[:, :, None, None] * y_rows
    residual = (x_rows + branch).to(x.dtype)
    normal = F.layer_norm(residual, residual.shape[-1:], eps=1e-6)
    modulated = normal * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return residual.flatten(1, 2), modulated.flatten(1, 2).to(x.dtype)


def composed(x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor) -> Pair:
    """The residual in PyTorch, then the native adaln_modulate."""
    residual = close_residual(x, y, gate)
    return residual, adaln_modulate(residual, shift, scale)


def cases(device: str) -> Iterator[Case]:
    """Forward moves x, y and both results; backward both gradients, residual, dx, and with a gate y, dy."""
    for (batch, frames, tokens, width), groups in SHAPES[device]:
        for name, dtype, modulation in DTYPES:
            x, y = torch.randn(2, batch, frames, tokens, width, device=device).to(dtype).unbind()
            gate, *table = torch.randn(3, batch, groups, width, device=device).to(modulation).unbind()
            grads = [torch.randn_like(x), torch.randn_like(x)]
            shape = ",".join(map(str, x.shape))
            for gated in (True, False):
                torch._dynamo.reset()
                ways = {
                    "ours": gated_residual_adaln,
                    "composed": composed,
                    "eager": eager,
                    "compile": torch.compile(eager),
                }
                inputs = [x, y, gate if gated else None, *table]
                label = name if gated else f"{name} open"
                fwd = {way: forward(op, *inputs) for way, op in ways.items()}
                yield Case("fwd", shape, label, fwd, 4 * x.nbytes)
                both = {way: forward_backward(op, grads, *inputs) for way, op in ways.items()}
                yield Case("fwd+bwd", shape, label, both, (10 if gated else 8) * x.nbytes)


if __name__ == "__main__":
    main("gated_residual_adaln", cases)
