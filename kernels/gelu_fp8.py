"""gelu_fp8: tanh-GELU of rows, left as e4m3 numbers and one float32 scale a row.

The same in PyTorch, in float32:

    y = gelu(x, approximate="tanh")
    largest = y.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    values, scale = (y * (448 / largest)).to(float8_e4m3fn), largest / 448

Cost: reads x once and writes one byte an element (3 bytes an element in bfloat16 instead of the 4 of a GELU
alone, whose result would have to be read once more), about 20 flops: bound by memory. A program holds one row
in registers, because the scale of a row is known when all of it was seen.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

PER_WARP = 1024
"""Elements a warp holds: 32 a thread, four accesses of 16 bytes in bfloat16."""


def warps(block: int) -> int:
    """Warps of a program for a row of `block` elements."""
    return min(16, max(1, block // PER_WARP))


@triton.jit
def gelu_fp8_fwd_kernel(
    x,  # [rows, D]
    values,  # [rows, D] e4m3
    scales,  # [rows] float32
    width,  # D
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < width
    y = tl.load(x + row * width + column, mask=mask, other=0.0).to(tl.float32)
    # 0.5 y (1 + tanh u) = y / (1 + exp(-2u)), where nothing cancels; exp may overflow, which gives 0
    u = 0.7978845608028654 * (y + 0.044715 * y * y * y)
    y = y / (1.0 + tl.exp(-2.0 * u))
    largest = tl.maximum(tl.max(tl.abs(y), 0), 1e-12, propagate_nan=tl.PropagateNan.ALL)
    tl.store(values + row * width + column, (y * (448.0 / largest)).to(tl.float8e4nv), mask=mask)
    tl.store(scales + row, largest / 448.0)


def gelu_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the kernel.

    Args:
        x: ``(..., D)``, contiguous; float32, bfloat16 or float16.

    Returns:
        values ``(..., D)`` float8_e4m3fn and scale ``(..., 1)`` float32, contiguous.
    """
    width = x.shape[-1]
    values = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    if x.numel() == 0:
        return values, scales
    block = triton.next_power_of_2(width)
    with torch.cuda.device_of(x):
        gelu_fp8_fwd_kernel[(scales.numel(),)](x, values, scales, width, BLOCK=block, num_warps=warps(block))
    return values, scales
