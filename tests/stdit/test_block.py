"""One block of each type: against its equations written out, and compiled whole."""

from __future__ import annotations

import pytest
import torch
from numerics import assert_equation
from torch import Tensor, nn
from torch.nn import functional

from pavdit.nn.rope import rope_table
from pavdit.stdit.block import Block, SpatialAttention, TemporalAttention, add_gated

B, F, G, N, D, A, M = 2, 3, 6, 5, 16, 2, 4
KINDS = ["spatial", "temporal", "temporal-rope"]


def make_block(kind: str) -> Block:
    torch.manual_seed(0)
    rope = rope_table(torch.arange(G), D // A) if kind == "temporal-rope" else None
    attention = SpatialAttention(D, A) if kind == "spatial" else TemporalAttention(D, A, rope)
    block = Block(D, attention, A, mlp_ratio=4)
    nn.init.normal_(attention.q_weight)
    nn.init.normal_(attention.k_weight)
    return block


def make_inputs(block: Block, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    keys_values = block.cross.keys_values(noise(B, M, D)).detach()
    bias = torch.zeros(B, 1, 1, M, dtype=torch.float32)
    bias[0, ..., 3] = -torch.inf
    valid = torch.ones(1, G, N, dtype=torch.bool)
    valid[:, 2:4, 4] = False
    return [noise(B, G, N, D), noise(B, G, N, D), noise(B, F, D), noise(B, F, 6, D), keys_values, bias, valid]


def attention_by_hand(block: Block, h: Tensor, valid: Tensor) -> Tensor:
    """Softmax attention with explicit masks over all G * N tokens of a clip."""
    module = block.attention
    qkv = functional.linear(h, module.qkv.weight, module.qkv.bias).view(B, G * N, 3, A, D // A)
    q, k, v = qkv.unbind(2)
    q = q * (q.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * module.q_weight
    k = k * (k.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * module.k_weight
    frame, position = torch.arange(G * N) // N, torch.arange(G * N) % N
    if getattr(module, "rope", None) is not None:
        cosine, sine = module.rope()[:, frame, None].double()  # (G*N, 1, E/2)
        q, k = (
            torch.stack(
                [x[..., ::2] * cosine - x[..., 1::2] * sine, x[..., ::2] * sine + x[..., 1::2] * cosine], -1
            ).flatten(-2)
            for x in (q, k)
        )
    same = frame if isinstance(module, SpatialAttention) else position
    sees = (same[:, None] == same[None, :]) & valid.expand(B, G, N).reshape(B, 1, G * N)  # (B, query, key)
    scores = torch.einsum("bqae,bkae->baqk", q, k) / (D // A) ** 0.5
    weights = scores.masked_fill(~sees[:, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    out = torch.einsum("baqk,bkae->bqae", weights, v).reshape(B, G, N, D)
    return functional.linear(out, module.proj.weight, module.proj.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_block_is_its_equations(kind: str) -> None:
    block = make_block(kind).double()
    x, y, gate, modulation, keys_values, bias, valid = make_inputs(block, torch.float64)
    got_x, got_y, got_gate = block(x, y, gate, modulation, keys_values, bias, valid)

    def per_frame(values: Tensor) -> Tensor:
        return values[:, torch.arange(G) * F // G, None]  # (B, G, 1, D)

    def modulated(values: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return functional.layer_norm(values, (D,), eps=1e-6) * (1 + per_frame(scale)) + per_frame(shift)

    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation.unbind(2)
    x = x + per_frame(gate) * y
    x = x + per_frame(gate_msa) * attention_by_hand(block, modulated(x, shift_msa, scale_msa), valid)
    q = block.cross.q(x).view(B, G * N, A, -1)
    scores = torch.einsum("bqae,bake->baqk", q, keys_values[0]) / (D // A) ** 0.5 + bias
    crossed = torch.einsum("baqk,bake->bqae", scores.softmax(-1), keys_values[1]).reshape(B, G, N, D)
    x = x + block.cross.proj(crossed)
    y = block.mlp.fc2(functional.gelu(block.mlp.fc1(modulated(x, shift_mlp, scale_mlp)), approximate="tanh"))
    real = valid.expand(B, G, N)
    assert_equation(got_x[real], x[real], what="x")
    assert_equation(got_y[real], y[real], what="y")
    assert torch.equal(got_gate, gate_mlp)


def test_gate_of_a_frame_is_that_of_its_group() -> None:
    x, y, gate = torch.randn(B, G, N, D), torch.randn(B, G, N, D), torch.randn(B, F, D)
    want = torch.stack([x[:, g] + y[:, g] * gate[:, g * F // G, None] for g in range(G)], dim=1)
    assert_equation(add_gated(x, y, gate), want)


@pytest.mark.parametrize("kind", ["spatial", "temporal"])
def test_a_block_compiles_whole(kind: str) -> None:
    """No graph break, forward and backward (eager backend: tracing is what is tested)."""
    torch._dynamo.reset()
    block = make_block(kind)
    arguments = make_inputs(block, torch.float32)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(*arguments), block(*arguments), strict=True):
        assert_equation(got, want)
    compiled(*arguments)[1].sum().backward()
    assert block.mlp.fc1.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays(dtype: torch.dtype) -> None:
    """Float32 modulation beside low-precision tokens, the form that autocast gives."""
    block = make_block("spatial").to(dtype)
    x, y, gate, modulation, keys_values, bias, valid = make_inputs(block, dtype)
    x, y, _ = block(x, y, gate.float(), modulation.float(), keys_values, bias, valid)
    assert (x.dtype, y.dtype) == (dtype, dtype)
    assert x.isfinite().all()
