"""absorbed_attention beside cross-attention with its two layers: make bench OP=absorbed_attention.

`eager` is the exact way: query layer, the library's attention, output layer. M counts the task token: 9, 17
and 33 are 8, 16 and 32 text tokens, of which up to 16 are absorbed by default.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Case, forward, main
from pavdit.ops.absorbed_attention import absorbed_attention, absorbed_attention_reference

SHAPES = {  # B, N, A, D with heads of 64: `medium` and, on a GPU, `xl`, without guidance and with it
    "cpu": [(1, 384, 6, 384), (2, 384, 6, 384)],
    "cuda": [(1, 1024, 18, 1152), (2, 1024, 18, 1152), (16, 1024, 18, 1152)],
}
LENGTHS = (9, 17, 33)
DTYPES = {"cpu": [("fp32", torch.float32), ("bf16", torch.bfloat16)], "cuda": [("bf16", torch.bfloat16)]}


def exact(x: Tensor, weights: Tensor, biases: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Multi-head attention of x to given keys and values ``(B, A, M, E)``, with its two layers."""
    q = functional.linear(x, weights[0], biases[0]).unflatten(-1, (keys.shape[1], -1)).transpose(1, 2)
    out = functional.scaled_dot_product_attention(q, keys, values)
    return functional.linear(out.transpose(1, 2).flatten(-2), weights[1], biases[1])


def cases(device: str) -> Iterator[Case]:
    """Moves x, keys, values and the result, by the formula of kernels/absorbed_attention.py."""
    for batch, rows, heads, width in SHAPES[device]:
        for length in LENGTHS:
            for name, dtype in DTYPES[device]:
                torch._dynamo.reset()

                def draw(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
                    return torch.randn(shape, device=device).to(dtype)

                x, bias = draw(batch, rows, width), draw(batch, heads, length, dtype=torch.float32)
                keys, values = draw(2, batch, heads, length, width) / width**0.5
                plain = draw(2, width, width) / width**0.5, draw(2, width)
                heads_of = draw(2, batch, heads, length, width // heads)
                calls = {
                    "ours": forward(absorbed_attention, x, keys, bias, values),
                    "eager": forward(exact, x, *plain, *heads_of),
                    "compile": forward(torch.compile(absorbed_attention_reference), x, keys, bias, values),
                }
                moved = 2 * x.nbytes + 2 * keys.nbytes
                flops = 4 * batch * rows * width * heads * length
                yield Case("fwd", f"{batch}x{rows}x{width} M={length}", name, calls, moved, flops)


if __name__ == "__main__":
    main("absorbed_attention", cases)
