"""block_attention and block_cross_attention at the shapes of our models: make bench OP=block_attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, forward, forward_backward, main
from pavdit.ops.block_attention import block_attention, block_attention_reference, to_blocks
from pavdit.ops.block_cross_attention import block_cross_attention, block_cross_attention_reference

Block = tuple[int, int, int]
Op = Callable[..., Tensor | tuple[Tensor, ...]]

DECODER = (1, 16, 32, 32, 6, 64)  # B, T, H, W, A, E
SHAPES: list[tuple[tuple[int, ...], Block]] = [
    (DECODER, (4, 4, 4)),
    (DECODER, (1, 8, 8)),
    (DECODER, (2, 8, 8)),
    (DECODER, (4, 8, 8)),
    ((1, 4, 1, 256, 18, 64), (1, 1, 256)),  # STDiT's spatial attention at 256 x 256
    ((3, 4, 8, 8, 2, 64), (1, 8, 8)),  # in cache
]
CROSS: list[tuple[tuple[int, ...], Block]] = [(DECODER, (1, 8, 8)), (DECODER, (4, 8, 8))]
DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16)]


def one(op: Op, qkv: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Take the op over the three parts of one packed tensor, as the models call it."""
    return op(*qkv.unbind(4))


def bare(qkv: Tensor) -> Tensor:
    """PyTorch's own attention on ``(P, A, 3, N, E)``, as if the partition into blocks cost nothing."""
    return F.scaled_dot_product_attention(*qkv.unbind(2))


def of_one(shape: tuple[int, ...], block: Block, dtype: torch.dtype, device: str) -> Iterator[tuple]:
    """One stream: forward, then forward and backward."""
    qkv = torch.randn(*shape[:4], 3, *shape[4:], device=device).to(dtype)
    grad = torch.randn(shape, device=device).to(dtype)
    parts = to_blocks(qkv, block).movedim(1, 3).movedim(1, 2).contiguous()  # (P, A, 3, N, E)
    parts_grad = to_blocks(grad, block).transpose(1, 2).contiguous()
    reference = partial(
        block_attention_reference, block=block, valid=None, q_weight=None, k_weight=None, rope=None
    )
    ways: dict[str, Op] = {
        "ours": partial(one, partial(block_attention, block=block)),
        "reference": partial(one, reference),
        "compile": torch.compile(partial(one, reference)),
    }
    fwd = {way: forward(op, qkv) for way, op in ways.items()} | {"bare sdpa": forward(bare, parts)}
    yield "fwd", fwd, qkv.nbytes + grad.nbytes
    both = {way: forward_backward(op, [grad], qkv) for way, op in ways.items()}
    both["bare sdpa"] = forward_backward(bare, [parts_grad], parts)
    yield "fwd+bwd", both, 3 * qkv.nbytes + 2 * grad.nbytes


def of_two(shape: tuple[int, ...], block: Block, dtype: torch.dtype, device: str) -> Iterator[tuple]:
    """Two streams: forward, then forward and backward."""
    a, b = (torch.randn(*shape[:4], 3, *shape[4:], device=device).to(dtype) for _ in range(2))
    grads = [torch.randn(shape, device=device).to(dtype) for _ in range(2)]
    reference = partial(block_cross_attention_reference, block=block)
    ways: dict[str, Op] = {
        "ours": partial(block_cross_attention, block=block),
        "reference": reference,
        "compile": torch.compile(reference),
    }
    yield "fwd", {way: forward(op, a, b) for way, op in ways.items()}, 2 * (a.nbytes + grads[0].nbytes)
    both = {way: forward_backward(op, grads, a, b) for way, op in ways.items()}
    yield "fwd+bwd", both, 2 * (3 * a.nbytes + 2 * grads[0].nbytes)


def cases(device: str) -> Iterator[Case]:
    """Forward moves qkv and out; backward reads qkv and grad and writes dqkv."""
    for kind, shapes in ((of_one, SHAPES), (of_two, CROSS)):
        for shape, block in shapes:
            for name, dtype in DTYPES:
                torch._dynamo.reset()
                problems = math.prod(shape[:5]) // math.prod(block) * (1 if kind is of_one else 2)
                text = f"{problems}x{'x'.join(map(str, block))}x{shape[5]}"
                for direction, calls, moved_bytes in kind(shape, block, dtype, device):
                    label = direction if kind is of_one else f"cross {direction}"
                    yield Case(label, text, name, calls, moved_bytes)


if __name__ == "__main__":
    main("block_attention", cases)
