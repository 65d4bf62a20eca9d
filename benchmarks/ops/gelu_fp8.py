"""gelu_fp8 at the MLPs of our models: make bench OP=gelu_fp8. On a CPU `ours` is the reference."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Case, main
from pavdit.ops.gelu_fp8 import gelu_fp8, gelu_fp8_reference

SHAPES = {"cpu": [(768, 1536)], "cuda": [(1024, 4608), (2048, 4608), (16_384, 4608)]}


def cases(device: str) -> Iterator[Case]:
    """Reads bfloat16, writes a byte an element; `gelu` alone is what the exact path does and reads again."""
    for rows, width in SHAPES[device]:
        torch._dynamo.reset()
        x = torch.randn(rows, width, device=device).to(torch.bfloat16)
        compiled = torch.compile(gelu_fp8_reference)

        def gelu(x: Tensor = x) -> Tensor:
            return functional.gelu(x, approximate="tanh")

        calls = {
            "ours": lambda x=x: gelu_fp8(x),
            "eager": lambda x=x: gelu_fp8_reference(x),
            "compile": lambda x=x, compiled=compiled: compiled(x),
            "gelu": gelu,
        }
        yield Case("fwd", f"{rows}x{width}", "bf16", calls, 3 * x.numel() + 4 * rows)


if __name__ == "__main__":
    main("gelu_fp8", cases)
