"""geglu_mlp at the shapes of MDSA's TimeSformers, without gradients: make bench OP=geglu_mlp."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.harness import Case, forward, main
from pavdit.ops.geglu_mlp import geglu_mlp, geglu_mlp_reference

SHAPES = {  # rows, D; hidden = 4 D
    "cpu": [(512, 128), (4096, 192)],
    "cuda": [(16_384, 384)],
}
DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16)]


def cases(device: str) -> Iterator[Case]:
    """Moves x, the weights and the result."""
    for rows, width in SHAPES[device]:
        for name, dtype in DTYPES:
            torch._dynamo.reset()
            sizes = ((rows, width), (8 * width, width), (8 * width,), (width, 4 * width), (width,))
            inputs = [(torch.randn(s, device=device) * s[-1] ** -0.5).to(dtype) for s in sizes]
            inputs[0] *= width**0.5
            ways = {
                "ours": geglu_mlp,
                "eager": geglu_mlp_reference,
                "compile": torch.compile(geglu_mlp_reference),
            }
            calls = {way: forward(op, *inputs) for way, op in ways.items()}
            moved = 2 * inputs[0].nbytes + inputs[1].nbytes + inputs[3].nbytes
            yield Case("fwd", f"{rows}x{width}", name, calls, moved)


if __name__ == "__main__":
    main("geglu_mlp", cases)
