"""gated_residual_adaln_fp8: a gated residual, its adaptive LayerNorm, and the norm as e4m3 rows.

The same in PyTorch, in float32, with g the group of the row's frame:

    residual = (x + gate[g] * y).to(x.dtype)        # x + y without a gate
    m = layer_norm(residual.float(), (D,), eps=eps) * (1 + scale[g]) + shift[g]
    largest = m.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    values, row_scale = (m * (448 / largest)).to(float8_e4m3fn), largest / 448

Cost: reads x and y, writes the residual and one byte an element: 7 bytes an element in bfloat16, where the
form without quantisation moves 8, and the matrix product that follows reads half as much. About 15 flops an
element: bound by memory. A program holds one row in registers; modulation is read from cache by all rows of a
group.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

PER_WARP = 512
"""Elements a warp holds: 16 a thread; x and y are two accesses of 16 bytes each in bfloat16."""


def warps(block: int) -> int:
    """Warps of a program for a row of `block` elements."""
    return min(16, max(1, block // PER_WARP))


@triton.jit
def _group_row(frame, clip, frames, groups, clip_stride, group_stride):
    """Offset of the modulation of a frame."""
    group = frame * groups // frames
    return clip.to(tl.int64) * clip_stride + group.to(tl.int64) * group_stride


@triton.jit
def gated_residual_adaln_fp8_fwd_kernel(
    x,  # [B, F, N, D]
    y,  # [B, F, N, D]
    gate,  # [B or 1, gate_groups, D] by the strides given, D dense; read where GATED
    shift,  # [B or 1, groups, D] by the strides given, D dense
    scale,  # as shift
    residual,  # [B, F, N, D]
    values,  # [B, F, N, D] e4m3
    row_scale,  # [B, F, N] float32
    frames,  # F
    tokens,  # N
    width,  # D
    gate_groups,
    gate_clip_stride,  # 0 where all clips share it
    gate_group_stride,
    groups,
    clip_stride,
    group_stride,
    eps,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    clip, frame = row // tokens // frames, row // tokens % frames
    column = tl.arange(0, BLOCK)
    mask = column < width
    place = row * width + column
    r = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    branch = tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
    if GATED:
        start = _group_row(frame, clip, frames, gate_groups, gate_clip_stride, gate_group_stride)
        branch *= tl.load(gate + start + column, mask=mask, other=0.0).to(tl.float32)
    rounded = (r + branch).to(residual.dtype.element_ty)
    tl.store(residual + place, rounded, mask=mask)

    r = rounded.to(tl.float32)
    r = tl.where(mask, r - tl.sum(r, 0) / width, 0.0)
    rstd = tl.rsqrt(tl.sum(r * r, 0) / width + eps)
    start = _group_row(frame, clip, frames, groups, clip_stride, group_stride)
    gain = 1.0 + tl.load(scale + start + column, mask=mask, other=0.0).to(tl.float32)
    m = r * rstd * gain + tl.load(shift + start + column, mask=mask, other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(m), 0), 1e-12, propagate_nan=tl.PropagateNan.ALL)
    tl.store(values + place, (m * (448.0 / largest)).to(tl.float8e4nv), mask=mask)
    tl.store(row_scale + row, largest / 448.0)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Modulation ``(B or 1, G, D)`` with D dense."""
    return tensor if tensor.stride(2) == 1 else tensor.contiguous()


def _strides(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Groups, and the strides of clips and groups."""
    return tensor.shape[1], 0 if tensor.shape[0] == 1 else tensor.stride(0), tensor.stride(1)


def gated_residual_adaln_fp8(
    x: torch.Tensor,
    y: torch.Tensor,
    gate: torch.Tensor | None,
    shift: torch.Tensor,
    scale: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Launch the kernel.

    Args:
        x: ``(B, F, N, D)``, contiguous; float32, bfloat16 or float16.
        y: as `x`.
        gate: ``(B or 1, G, D)``, any strides, or None.
        shift: ``(B or 1, G, D)``, any strides.
        scale: as `shift`.
        eps: added to the variance.

    Returns:
        residual ``(B, F, N, D)``, values ``(B, F, N, D)`` float8_e4m3fn and row_scale ``(B, F, N, 1)``
        float32, contiguous.
    """
    _, frames, tokens, width = x.shape
    residual = torch.empty_like(x)
    values = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    row_scale = torch.empty((*x.shape[:3], 1), dtype=torch.float32, device=x.device)
    if x.numel() == 0:
        return residual, values, row_scale
    shift, scale = _rows(shift), _rows(scale)
    if _strides(shift) != _strides(scale):
        shift, scale = shift.contiguous(), scale.contiguous()
    factor = shift if gate is None else _rows(gate)
    block = triton.next_power_of_2(width)
    with torch.cuda.device_of(x):
        gated_residual_adaln_fp8_fwd_kernel[(row_scale.numel(),)](
            x,
            y,
            factor,
            shift,
            scale,
            residual,
            values,
            row_scale,
            frames,
            tokens,
            width,
            *_strides(factor),
            *_strides(shift),
            eps,
            GATED=gate is not None,
            BLOCK=block,
            num_warps=warps(block),
        )
    return residual, values, row_scale
