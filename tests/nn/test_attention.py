"""The shared layers against their equations."""

from __future__ import annotations

import torch
from numerics import assert_equation
from torch.nn.functional import gelu

from pavdit.nn.attention import QKV, GegluMlp, HeadsOut, Mlp


def test_qkv_puts_queries_keys_values_and_heads_where_the_ops_want_them() -> None:
    layer = QKV(6, num_heads=2, head_dim=4).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    out = layer(x)
    assert out.shape == (5, 3, 2, 4) and layer.bias is None
    for part in range(3):
        for head in range(2):
            rows = layer.weight[8 * part + 4 * head :][:4]
            assert_equation(out[:, part, head], x @ rows.T)


def test_heads_return_to_the_width() -> None:
    layer = HeadsOut(6, num_heads=2, head_dim=4).double()
    heads = torch.randn(5, 2, 4, dtype=torch.float64)
    assert_equation(layer(heads), heads.reshape(5, 8) @ layer.weight.T + layer.bias)


def test_mlp_is_the_equation() -> None:
    layer = Mlp(6, 10).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    hidden = gelu(x @ layer.fc1.weight.T + layer.fc1.bias)
    assert_equation(layer(x), hidden @ layer.fc2.weight.T + layer.fc2.bias)


def test_geglu_gates_the_first_half_by_the_second() -> None:
    layer = GegluMlp(6, 10).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    hidden = x @ layer.fc1.weight.T + layer.fc1.bias
    want = (hidden[:, :10] * gelu(hidden[:, 10:])) @ layer.fc2.weight.T + layer.fc2.bias
    assert_equation(layer(x), want)
