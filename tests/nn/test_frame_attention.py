"""Attention inside a frame: every backend is the same attention, and the choice says why."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
import torch
from numerics import assert_no_worse
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pavdit.nn import flash, frame_attention
from pavdit.nn.frame_attention import FrameAttention, choose_backend, measured, set_backend
from pavdit.nn.rope import axial_rope_table

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS, COLUMNS, HEADS, WIDTH = 3, 4, 2, 16


@pytest.fixture
def no_flash(monkeypatch: pytest.MonkeyPatch):
    """As where nothing is installed; the probe's answer is forgotten before and after."""
    flash.find_flash.cache_clear()
    for name in flash.MODULES.values():
        monkeypatch.setitem(sys.modules, name, None)
    yield
    monkeypatch.undo()
    flash.find_flash.cache_clear()


@pytest.fixture
def stand_in(no_flash, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A flash-attn of the third generation that PyTorch computes; returns the shapes it was called with."""
    seen = []

    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(q.shape))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous(), q.new_zeros(1)

    module = ModuleType(flash.MODULES[3])
    module.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, flash.MODULES[3], module)
    return seen


def arguments(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    qkv = torch.randn(2, 3, ROWS * COLUMNS, 3, HEADS, WIDTH, generator=generator)
    weights = (torch.rand(2, WIDTH, generator=generator) + 0.5).to(dtype)
    rope = axial_rope_table(ROWS, COLUMNS, WIDTH)
    return {"qkv": qkv.to(dtype), "q_weight": weights[0], "k_weight": weights[1], "rope": rope}


def attend(backend: str, given: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
    attention = FrameAttention()
    set_backend(nn.Sequential(attention), backend)
    return attention(valid=valid, **given)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["sdpa", "flash"])
@torch.no_grad()
def test_every_backend_is_the_same_attention(stand_in, backend, dtype, padded) -> None:
    given = arguments(dtype)
    exact = {name: tensor.double() for name, tensor in given.items() if name != "rope"}
    exact["rope"] = given["rope"]
    valid = torch.arange(ROWS * COLUMNS).expand(1, 3, -1) < 10 if padded else None
    ours = attend("block", given, valid)
    assert_no_worse(attend(backend, given, valid), ours, attend("block", exact, valid))
    assert stand_in == ([(6, 12, HEADS, WIDTH)] if backend == "flash" and not padded else [])


def test_flash_compiles_into_one_graph(stand_in) -> None:
    attention, given = FrameAttention(), arguments(torch.float32)
    set_backend(attention, "flash")
    with torch.no_grad():
        compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")(**given)
        assert torch.equal(compiled, attention(**given))


def test_what_is_installed_is_found(stand_in) -> None:
    found = flash.find_flash()
    assert found is not None and found.generation == 3


def test_without_flash_the_call_says_so(no_flash) -> None:
    assert flash.find_flash() is None
    with pytest.raises(RuntimeError, match="want flash-attn to be installed, got none"):
        attend("flash", arguments(torch.float32))


def choose(asked: str = "auto", device: torch.device = CUDA, dtype: torch.dtype = torch.bfloat16) -> str:
    return str(choose_backend(asked, device, dtype, 256, 64))


def test_the_choice_is_what_was_measured_on_such_a_machine(stand_in, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Imaginary 1")
    assert choose() == "block: the default; 256 tokens are not measured on Imaginary 1"
    row = {"machine": "Imaginary 1", "dtype": "bfloat16", "num_tokens": 256, "head_dim": 64}
    row |= {"fastest": "flash", "ms": {"block": 2.0, "sdpa": 1.5, "flash": 1.0}}
    monkeypatch.setattr(frame_attention, "measured", lambda: [row])
    assert choose() == "flash: measured fastest at 256 tokens"
    assert choose("sdpa") == "sdpa: as asked"
    assert choose(dtype=torch.float32).startswith("block: the default")
    monkeypatch.setattr(frame_attention, "find_flash", lambda: None)
    assert choose() == "sdpa: flash measured fastest at 256 tokens, but none that imports"


def test_a_cpu_has_one_kernel() -> None:
    assert choose(device=CPU) == "block: the default"


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "message"),
    [
        ("fast", CUDA, torch.bfloat16, "attention: want auto, block, sdpa, flash, got 'fast'"),
        ("flash", CPU, torch.bfloat16, "attention: want flash-attn to serve, got cpu"),
        ("flash", CUDA, torch.float32, "attention: want flash-attn to serve, got torch.float32"),
        ("flash", CUDA, torch.bfloat16, "attention: want flash-attn to serve, got none that imports"),
    ],
)
def test_what_cannot_serve_is_named(no_flash, asked, device, dtype, message) -> None:
    with pytest.raises(ValueError, match=message):
        choose(asked, device, dtype)


def test_the_shipped_table_has_rows_of_the_form_that_is_read() -> None:
    for row in measured():
        assert row["fastest"] in row["ms"] and json.dumps(row)
        assert row.keys() >= {"machine", "dtype", "num_tokens", "head_dim", "fastest", "ms"}
