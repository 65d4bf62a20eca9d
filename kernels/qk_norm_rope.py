"""qk_norm_rope: RMS norm and rotation of queries and keys in a packed QKV, values copied.

The same in PyTorch, for x = qkv[..., 0, :, :] with q_weight and x = qkv[..., 1, :, :] with k_weight:

    y = x * rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight
    out[2i], out[2i+1] = y[2i] * cos_i - y[2i+1] * sin_i, y[2i] * sin_i + y[2i+1] * cos_i

Cost: the forward reads and writes qkv once. The backward reads grad and qkv and writes dqkv; beside that
every program writes 2E float32 of partial weight gradients, which are summed afterwards: no atomics, the same
bits in every run. About 10 flops an element: bound by memory. A row is one vector of E; the rows of out come
in the order (token, part, head), so a program's rows are one run of memory, whatever share is q, k or v.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

EPS = tl.constexpr(1e-6)
NUM_WARPS = 4
TILE = 1024
"""Elements a program holds at a time: 8 a thread, one access of 16 bytes in bfloat16. Few registers, so that
many programs share a multiprocessor and their loads overlap."""
BACKWARD_TILES = 2
"""Tiles of one program of the backward, unrolled: the sums over rows come once for both. Four take half as
many registers again; as a loop they spill."""


def blocks(width: int) -> dict[str, int]:
    """Sizes of a tile for head width E: a power of two columns, and rows to make up TILE."""
    columns = max(2, triton.next_power_of_2(width))
    return {"ROWS": max(1, TILE // columns), "COLUMNS": columns}


@triton.jit
def _rows(tile, rows, length, HEADS: tl.constexpr, ROWS: tl.constexpr):
    """Take the rows of a tile apart: row of out, sequence, position, part, head, whether it exists."""
    first = tile * ROWS
    token = first // (3 * HEADS)
    inside = (first % (3 * HEADS)).to(tl.int32) + tl.arange(0, ROWS)
    position = (token % length).to(tl.int32) + inside // (3 * HEADS)  # from the start of the first sequence
    sequence = token // length + position // length
    row = first + tl.arange(0, ROWS)
    return row, sequence, position % length, (inside // HEADS) % 3, inside % HEADS, row < rows


@triton.jit
def _halves(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Split [ROWS, COLUMNS] into the firsts and the seconds of its pairs, in float32."""
    return tl.split(tl.reshape(x.to(tl.float32), (ROWS, COLUMNS // 2, 2)))


@triton.jit
def _weights(
    q_weight, k_weight, part, column, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """The weight of every row's part, as `_halves`."""
    q = tl.load(q_weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    k = tl.load(k_weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    return _halves(tl.where(part[:, None] == 0, q[None, :], k[None, :]), ROWS, COLUMNS)


@triton.jit
def _angles(rope, position, length, pair, mask, WIDTH: tl.constexpr):
    """Cosine and sine of every row's position: [ROWS, COLUMNS / 2] each."""
    half: tl.constexpr = WIDTH // 2
    inside = mask[:, None] & (pair < half)[None, :]
    row = position.to(tl.int64)
    cos = tl.load(rope + row[:, None] * half + pair[None, :], mask=inside, other=1.0)
    sin = tl.load(rope + (row + length)[:, None] * half + pair[None, :], mask=inside, other=0.0)
    return cos, sin


@triton.jit
def qk_norm_rope_fwd_kernel(
    qkv,  # [S, N, 3, A, E] by the strides given, E dense
    q_weight,  # [E]
    k_weight,  # [E]
    rope,  # [2, N, E/2] float32, read where ROPE
    out,  # [S, N, 3, A, E], dense
    rows,  # S * N * 3 * A
    length,  # N
    sequence_stride,
    position_stride,
    part_stride,
    head_stride,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64)
    row, sequence, position, part, head, mask = _rows(tile, rows, length, HEADS, ROWS)
    column, pair = tl.arange(0, COLUMNS), tl.arange(0, COLUMNS // 2)
    inside = mask[:, None] & (column < WIDTH)[None, :]
    source = sequence.to(tl.int64) * sequence_stride + position.to(tl.int64) * position_stride
    source += part.to(tl.int64) * part_stride + head.to(tl.int64) * head_stride
    x = tl.load(qkv + source[:, None] + column[None, :], mask=inside, other=0.0)

    first, second = _halves(x, ROWS, COLUMNS)
    rstd = tl.rsqrt(tl.sum(first * first + second * second, 1) * (1.0 / WIDTH) + EPS)[:, None]
    w_first, w_second = _weights(q_weight, k_weight, part, column, WIDTH, ROWS, COLUMNS)
    first, second = first * rstd * w_first, second * rstd * w_second
    if ROPE:
        cos, sin = _angles(rope, position, length, pair, mask, WIDTH)
        first, second = first * cos - second * sin, first * sin + second * cos
    y = tl.reshape(tl.join(first, second), (ROWS, COLUMNS)).to(out.dtype.element_ty)
    y = tl.where(part[:, None] == 2, x, y)
    tl.store(out + row[:, None] * WIDTH + column[None, :], y, mask=inside)


@triton.jit
def qk_norm_rope_bwd_kernel(
    grad,  # [S, N, 3, A, E], dense
    qkv,  # [S, N, 3, A, E] by the strides given, E dense
    q_weight,  # [E]
    k_weight,  # [E]
    rope,  # [2, N, E/2] float32, read where ROPE
    dqkv,  # [S, N, 3, A, E], dense
    dweights,  # [programs, 2, COLUMNS] float32: the program's share of dq_weight and dk_weight
    rows,  # S * N * 3 * A
    length,  # N
    sequence_stride,
    position_stride,
    part_stride,
    head_stride,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILES: tl.constexpr,
):
    column, pair = tl.arange(0, COLUMNS), tl.arange(0, COLUMNS // 2)
    dq_first = tl.zeros((ROWS, COLUMNS // 2), tl.float32)
    dq_second, dk_first, dk_second = dq_first, dq_first, dq_first
    for step in tl.static_range(TILES):
        tile = tl.program_id(0).to(tl.int64) * TILES + step
        row, sequence, position, part, head, mask = _rows(tile, rows, length, HEADS, ROWS)
        inside = mask[:, None] & (column < WIDTH)[None, :]
        source = sequence.to(tl.int64) * sequence_stride + position.to(tl.int64) * position_stride
        source += part.to(tl.int64) * part_stride + head.to(tl.int64) * head_stride
        x = tl.load(qkv + source[:, None] + column[None, :], mask=inside, other=0.0)
        g = tl.load(grad + row[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)

        g_first, g_second = _halves(g, ROWS, COLUMNS)
        if ROPE:  # back by the same angle
            cos, sin = _angles(rope, position, length, pair, mask, WIDTH)
            g_first, g_second = g_first * cos + g_second * sin, g_second * cos - g_first * sin
        first, second = _halves(x, ROWS, COLUMNS)
        rstd = tl.rsqrt(tl.sum(first * first + second * second, 1) * (1.0 / WIDTH) + EPS)[:, None]
        first, second = first * rstd, second * rstd  # the normalised row, xhat
        w_first, w_second = _weights(q_weight, k_weight, part, column, WIDTH, ROWS, COLUMNS)
        h_first, h_second = g_first * w_first, g_second * w_second
        along = (tl.sum(h_first * first + h_second * second, 1) * (1.0 / WIDTH))[:, None]
        dx = tl.join(rstd * (h_first - first * along), rstd * (h_second - second * along))
        dx = tl.reshape(dx, (ROWS, COLUMNS)).to(dqkv.dtype.element_ty)
        dx = tl.where(part[:, None] == 2, g, dx)
        tl.store(dqkv + row[:, None] * WIDTH + column[None, :], dx, mask=inside)

        is_q, is_k = (part == 0)[:, None], (part == 1)[:, None]
        dq_first += tl.where(is_q, g_first * first, 0.0)
        dq_second += tl.where(is_q, g_second * second, 0.0)
        dk_first += tl.where(is_k, g_first * first, 0.0)
        dk_second += tl.where(is_k, g_second * second, 0.0)

    partial = dweights + tl.program_id(0).to(tl.int64) * (2 * COLUMNS) + column
    dq = tl.reshape(tl.join(tl.sum(dq_first, 0), tl.sum(dq_second, 0)), (COLUMNS,))
    dk = tl.reshape(tl.join(tl.sum(dk_first, 0), tl.sum(dk_second, 0)), (COLUMNS,))
    tl.store(partial, dq, mask=column < WIDTH)
    tl.store(partial + COLUMNS, dk, mask=column < WIDTH)


def _sequences(qkv: torch.Tensor) -> torch.Tensor:
    """``(..., N, 3, A, E)`` as ``(S, N, 3, A, E)`` with E dense; a view wherever one exists."""
    packed = qkv.reshape(math.prod(qkv.shape[:-4]), *qkv.shape[-4:])
    return packed if packed.stride(-1) == 1 or packed.shape[-1] == 1 else packed.contiguous()


def qk_norm_rope(
    qkv: torch.Tensor, q_weight: torch.Tensor, k_weight: torch.Tensor, rope: torch.Tensor | None
) -> torch.Tensor:
    """Launch the forward.

    Args:
        qkv: ``(..., N, 3, A, E)``; float32, bfloat16 or float16, any strides.
        q_weight: ``(E,)``, contiguous.
        k_weight: ``(E,)``, contiguous.
        rope: float32 ``(2, N, E/2)``, contiguous, or None.

    Returns:
        ``(..., N, 3, A, E)``, contiguous.
    """
    out = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    if qkv.numel() == 0:
        return out
    packed = _sequences(qkv)
    sequences, length, _, heads, width = packed.shape
    tile = blocks(width)
    rows = sequences * length * 3 * heads
    with torch.cuda.device_of(qkv):
        qk_norm_rope_fwd_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
            packed,
            q_weight,
            k_weight,
            packed if rope is None else rope,
            out,
            rows,
            length,
            *packed.stride()[:4],
            HEADS=heads,
            WIDTH=width,
            ROPE=rope is not None,
            **tile,
            num_warps=NUM_WARPS,
        )
    return out


def qk_norm_rope_backward(
    grad: torch.Tensor,
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    rope: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Launch the backward and sum its partial weight gradients.

    Args:
        grad: ``(..., N, 3, A, E)``, dtype of `qkv`, contiguous.
        qkv, q_weight, k_weight, rope: as for `qk_norm_rope`.

    Returns:
        dqkv, contiguous, and dq_weight, dk_weight ``(E,)``, each in the dtype of its input.
    """
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    if qkv.numel() == 0:
        return dqkv, torch.zeros_like(q_weight), torch.zeros_like(k_weight)
    packed = _sequences(qkv)
    sequences, length, _, heads, width = packed.shape
    tile = blocks(width)
    rows = sequences * length * 3 * heads
    programs = triton.cdiv(rows, tile["ROWS"] * BACKWARD_TILES)
    partial = torch.empty(programs, 2, tile["COLUMNS"], dtype=torch.float32, device=qkv.device)
    with torch.cuda.device_of(qkv):
        qk_norm_rope_bwd_kernel[(programs,)](
            grad,
            packed,
            q_weight,
            k_weight,
            packed if rope is None else rope,
            dqkv,
            partial,
            rows,
            length,
            *packed.stride()[:4],
            HEADS=heads,
            WIDTH=width,
            ROPE=rope is not None,
            TILES=BACKWARD_TILES,
            **tile,
            num_warps=NUM_WARPS,
        )
    dq_weight, dk_weight = (partial[:, part, :width].sum(0) for part in (0, 1))
    return dqkv, dq_weight.to(q_weight.dtype), dk_weight.to(k_weight.dtype)
