"""scaled_linear beside the same layer in bfloat16, at the GEMMs of a block: make bench OP=scaled_linear.

On a CPU, and where the device has no e4m3 products, `ours` is an emulation. The peak is that of bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

from benchmarks.harness import Case, main
from pavdit.ops.scaled_linear import quantise_rows, scaled_linear

SHAPES = {  # rows, D, O: QKV, fc1, fc2
    "cpu": [(768, 384, 1152)],
    "cuda": [
        (rows, width, outputs)
        for rows in (1024, 2048, 16_384)
        for width, outputs in ((1152, 3456), (1152, 4608), (4608, 1152))
    ],
}


def cases(device: str) -> Iterator[Case]:
    """Reads one byte a number, writes bfloat16."""
    for rows, width, outputs in SHAPES[device]:
        x = torch.randn(rows, width, device=device).to(torch.bfloat16)
        weight = (torch.randn(outputs, width, device=device) / width**0.5).to(torch.bfloat16)
        bias = torch.randn(outputs, device=device).to(torch.bfloat16)
        inputs = *quantise_rows(x), *quantise_rows(weight), bias
        plain = x, weight, bias
        calls = {
            "ours": lambda inputs=inputs: scaled_linear(*inputs),
            "eager": lambda plain=plain: functional.linear(*plain),
        }
        moved = x.numel() + weight.numel() + 4 * (rows + outputs) + 2 * rows * outputs
        yield Case("fwd", f"{rows}x{width}x{outputs}", "bf16", calls, moved, 2 * rows * width * outputs)


if __name__ == "__main__":
    main("scaled_linear", cases)
