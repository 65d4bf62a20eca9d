"""qk_norm_rope at the spatial blocks of `small` and `xl`: make bench OP=qk_norm_rope.

On the CPU there is no kernel: `ours` is then the public function over its reference, and the row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Case, forward, forward_backward, main
from pavdit.ops._library import native
from pavdit.ops.qk_norm_rope import NORM_EPS, qk_norm_rope

FRAMES = {"small": (6, 64, 3, 3, 64), "xl": (4, 256, 3, 18, 64)}  # of one clip: G, N, 3, A, E
BATCHES = {"cpu": (1, 4), "cuda": (1, 4, 16)}
DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16)]
Op = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def eager(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor) -> Tensor:
    """What one would write with PyTorch's own rms_norm, in float32."""
    cos, sin = rope.unsqueeze(-2).unbind(0)  # (N, 1, E/2)

    def turned(x: Tensor, weight: Tensor) -> Tensor:
        normal = F.rms_norm(x.float(), x.shape[-1:], weight, NORM_EPS)
        first, second = normal.unflatten(-1, (-1, 2)).unbind(-1)
        pairs = torch.stack((first * cos - second * sin, first * sin + second * cos), -1)
        return pairs.flatten(-2).to(x.dtype)

    q, k, v = qkv.unbind(-3)
    return torch.stack((turned(q, q_weight), turned(k, k_weight), v), -3)


def turned_by(op: Op, rope: Tensor, qkv: Tensor, q_weight: Tensor, k_weight: Tensor) -> Tensor:
    """The op of what has gradients."""
    return op(qkv, q_weight, k_weight, rope)


def cases(device: str) -> Iterator[Case]:
    """Forward moves qkv and out; backward reads grad and qkv and writes dqkv."""
    for preset, frames in FRAMES.items():
        for batch in BATCHES[device]:
            for name, dtype in DTYPES:
                torch._dynamo.reset()
                ways = {"ours": qk_norm_rope, "eager": eager, "compile": torch.compile(eager)}
                qkv = torch.randn(batch * frames[0], *frames[1:], device=device).to(dtype)
                weights = torch.ones(2, frames[-1], device=device).unbind()
                turn = torch.arange(frames[1], device=device)[:, None] / 100 ** torch.linspace(0, 1, 32).to(
                    device
                )
                inputs = [qkv, *weights, torch.stack((turn.cos(), turn.sin()))]
                grad = torch.randn_like(qkv)
                label = f"{name} {'triton' if native('qk_norm_rope', qkv) else 'reference'}"
                fwd = {way: forward(op, *inputs) for way, op in ways.items()}
                yield Case("fwd", f"{preset} {batch}", label, fwd, 2 * qkv.nbytes)
                both = {
                    way: forward_backward(partial(turned_by, op, inputs[3]), [grad], *inputs[:3])
                    for way, op in ways.items()
                }
                yield Case("fwd+bwd", f"{preset} {batch}", label, both, 5 * qkv.nbytes)


if __name__ == "__main__":
    main("qk_norm_rope", cases)
