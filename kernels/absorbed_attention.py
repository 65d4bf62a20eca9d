"""absorbed_attention: scores of rows against absorbed keys and their softmax inside each head, in one kernel.

The same in PyTorch; the second product, probabilities @ values, is the library's:

    scores = x @ keys.flatten(1, 2).mT + bias.flatten(1)[:, None]        # (B, N, A * M)
    probabilities = scores.unflatten(-1, (A, M)).float().softmax(-1).flatten(-2).to(x.dtype)

Cost: 2 N D A M flops a clip; reads x and keys, writes A M probabilities a row.

Why the second product is outside: a kernel with both needs all heads of a row in one program, 64 rows x 18
heads x 16 columns of float32, so one clip of `xl` (N = 1024, D = 1152) would be 16 programs on some 130
multiprocessors. Split by heads it is 16 x 3. What that costs is the way of the probabilities through the L2
cache: at M = 9 they are 4 A M = 648 bytes a row, written and read, beside 4 D = 4608 bytes of x and out.

What M costs: a head's columns are padded to a power of two. At M = 9 (8 text tokens and the task) the first
product has 18 * 16 = 288 columns instead of the 1152 of a query projection, the second 162; at M = 17, 576
and 306; at M = 33, 1152 and 594, so that the first product saves nothing and what is left is the second
product and the attention between them. Hence the limit of 16 text tokens until a GPU has said otherwise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = 64
"""Rows of x of one program: the least that a warp group's matrix product takes."""
COLUMNS = 128
"""Columns of scores of one program, whole heads of a power of two columns: 64 accumulators a thread."""
DEPTH = 64
"""Part of D that a step of the product takes: 128 bytes of a row in bfloat16."""
NUM_WARPS = 4
NUM_STAGES = 3


def tiles(length: int) -> dict[str, int]:
    """Sizes of a program for M tokens."""
    padded = triton.next_power_of_2(length)
    return {"HEADS": max(1, COLUMNS // padded), "LENGTH": padded}


@triton.jit
def absorbed_attention_fwd_kernel(
    x,  # [B, N, D]
    keys,  # [B, A, M, D]
    bias,  # [B, A, M] float32
    probabilities,  # [B, N, A * M]
    rows,  # N
    heads,  # A
    length,  # M
    width,  # D
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,
    LENGTH: tl.constexpr,
    DEPTH: tl.constexpr,
):
    clip = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, HEADS * LENGTH)
    head, token = tl.program_id(1) * HEADS + column // LENGTH, column % LENGTH
    key = (clip * heads + head) * length + token  # of [B, A, M]
    in_rows, in_columns = row < rows, (head < heads) & (token < length)
    depth = tl.arange(0, DEPTH)
    x_place = x + (clip * rows + row)[:, None] * width + depth[None, :]
    key_place = keys + key[None, :] * width + depth[:, None]
    scores = tl.zeros((ROWS, HEADS * LENGTH), tl.float32)
    for start in range(0, width, DEPTH):
        inside = depth < width - start
        a = tl.load(x_place + start, mask=in_rows[:, None] & inside[None, :], other=0.0)
        b = tl.load(key_place + start, mask=in_columns[None, :] & inside[:, None], other=0.0)
        scores = tl.dot(a, b, scores)
    scores += tl.load(bias + key, mask=in_columns, other=0.0)[None, :]
    # a head beyond A stays finite: its columns are not stored
    scores = tl.where(token[None, :] < length, scores, float("-inf"))
    scores = tl.reshape(scores, (ROWS, HEADS, LENGTH))
    scores = tl.exp(scores - tl.max(scores, 2)[:, :, None])
    scores = tl.reshape(scores / tl.sum(scores, 2)[:, :, None], (ROWS, HEADS * LENGTH))
    place = (clip * rows + row)[:, None] * (heads * length) + (head * length + token)[None, :]
    mask = in_rows[:, None] & in_columns[None, :]
    tl.store(probabilities + place, scores.to(probabilities.dtype.element_ty), mask=mask)


def probabilities(x: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Launch the kernel.

    Args:
        x: ``(B, N, D)``, contiguous; bfloat16 or float16.
        keys: ``(B, A, M, D)``, dtype of `x`, contiguous.
        bias: ``(B, A, M)`` float32, contiguous.

    Returns:
        ``(B, N, A * M)``, dtype of `x`, contiguous.
    """
    (batch, rows, width), (heads, length) = x.shape, keys.shape[1:3]
    out = torch.empty((batch, rows, heads * length), dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    tile = tiles(length)
    grid = (triton.cdiv(rows, ROWS), triton.cdiv(heads, tile["HEADS"]), batch)
    with torch.cuda.device_of(x):
        absorbed_attention_fwd_kernel[grid](
            x,
            keys,
            bias,
            out,
            rows,
            heads,
            length,
            width,
            ROWS=ROWS,
            DEPTH=DEPTH,
            **tile,
            num_warps=NUM_WARPS,
            num_stages=NUM_STAGES,
        )
    return out
