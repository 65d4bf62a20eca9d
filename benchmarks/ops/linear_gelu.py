"""linear_gelu at the shapes of our MLPs, without gradients: make bench OP=linear_gelu."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.harness import Case, forward, main
from pavdit.ops.linear_gelu import linear_gelu, linear_gelu_reference

SHAPES = {  # rows, D; hidden = 4 D
    "cpu": [(384, 384), (768, 384), (1024, 768), (1536, 1152)],
    "cuda": [(1024, 1152), (2048, 1152), (16_384, 1152)],
}
DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16)]


def cases(device: str) -> Iterator[Case]:
    """Moves x, the weight and the result."""
    for rows, width in SHAPES[device]:
        for name, dtype in DTYPES:
            torch._dynamo.reset()
            x = torch.randn(rows, width, device=device).to(dtype)
            weight = (torch.randn(4 * width, width, device=device) / width**0.5).to(dtype)
            bias = torch.randn(4 * width, device=device).to(dtype)
            ways = {
                "ours": linear_gelu,
                "eager": linear_gelu_reference,
                "compile": torch.compile(linear_gelu_reference),
            }
            calls = {way: forward(op, x, weight, bias) for way, op in ways.items()}
            yield Case("fwd", f"{rows}x{width}", name, calls, 5 * x.nbytes + weight.nbytes)


if __name__ == "__main__":
    main("linear_gelu", cases)
