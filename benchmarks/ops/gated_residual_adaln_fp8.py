"""gated_residual_adaln_fp8 at the shapes of our models: make bench OP=gated_residual_adaln_fp8.

On a CPU `ours` is the reference. `exact` is the op without quantisation, which moves 8 bytes an element.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.harness import Case, main
from pavdit.ops import gated_residual_adaln
from pavdit.ops.gated_residual_adaln_fp8 import gated_residual_adaln_fp8, gated_residual_adaln_fp8_reference

SHAPES = {  # of x, and G
    "cpu": [((2, 6, 64, 384), 2)],
    "cuda": [((1, 4, 256, 1152), 2), ((2, 4, 256, 1152), 2), ((16, 4, 256, 1152), 2)],
}


def cases(device: str) -> Iterator[Case]:
    """Reads x and y in bfloat16, writes the residual and a byte an element."""
    for shape, groups in SHAPES[device]:
        torch._dynamo.reset()
        x, y = torch.randn(2, *shape, device=device).to(torch.bfloat16)
        gate, shift, scale = torch.randn(3, 1, groups, shape[-1], device=device).to(torch.bfloat16)
        inputs = x, y, gate, shift, scale
        compiled = torch.compile(gated_residual_adaln_fp8_reference)
        calls = {
            "ours": lambda inputs=inputs: gated_residual_adaln_fp8(*inputs),
            "eager": lambda inputs=inputs: gated_residual_adaln_fp8_reference(*inputs, 1e-6),
            "compile": lambda inputs=inputs, compiled=compiled: compiled(*inputs, 1e-6),
            "exact": lambda inputs=inputs: gated_residual_adaln(*inputs),
        }
        yield Case(
            "fwd", "x".join(map(str, shape)), "bf16", calls, 7 * x.numel() + 4 * x.numel() // shape[-1]
        )


if __name__ == "__main__":
    main("gated_residual_adaln_fp8", cases)
