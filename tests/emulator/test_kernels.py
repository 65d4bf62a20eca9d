"""The CUDA kernels' arithmetic, without a device: the accuracy tests of the ops, served by the emulator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from axis_calls import CALLS, LOW, Call, assert_as_good_as, draw, inputs_of
from emulator.library import library
from ops import test_adaln_modulate, test_axis_attention, test_gated_residual_adaln
from torch import Tensor

from pavdit.ops import adaln_modulate, axis_attention, axis_query_attention, gated_residual_adaln
from pavdit.ops.axis_attention import axis_attention_reference, axis_query_attention_reference

ADALN = ["one", "ragged", "shared-batch", "strided", "unaligned", "no-tokens", "no-rows-shared"]
GATED = ["one", "ragged-no-gate", "groups-cross", "strided", "unaligned", "no-tokens"]
AXIS_CALLS = {name: call for name, call in CALLS.items() if name != "70000-problems"} | {
    "alone": Call((3, 1, 5, 64), 1, normed=True, turned=True),  # sixteen problems share a tile
    "pairs": Call((2, 11, 1, 48), 0, masked=True),
    "fifteen": Call((3, 15, 2, 8), 1, masked=True, turned=True),
    "seventeen": Call((17, 2, 1, 96), 0, masked=True, normed=True, turned=True),
    "48": Call((1, 48, 2, 72), 1, masked=True, normed=True),
    "64-wide": Call((2, 64, 1, 96), 1, turned=True),
    "five-axes": Call((2, 3, 1, 2, 5, 2, 16), 4, masked=True),
    "600-problems": Call((200, 3, 3, 24), 1, normed=True),  # blocks take several tiles
    "24-long-problems": Call((12, 20, 2, 48), 1, normed=True, masked=True),
}


def test_the_emulator_serves() -> None:
    x, m, qkv = torch.randn(1, 2, 3, 8), torch.randn(1, 1, 8), torch.randn(2, 4, 3, 2, 8)
    for run in (
        lambda: adaln_modulate(x, m, m),
        lambda: gated_residual_adaln(x, x, m, m, m),
        lambda: axis_attention(qkv, 1),
        lambda: axis_query_attention(qkv[:, :1, :1], qkv[:, :, 1:], 1),
    ):
        before = library().emulator_launches()
        run()
        assert library().emulator_launches() > before


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ADALN)
def test_adaln_modulate_accuracy(name: str, dtype: str) -> None:
    test_adaln_modulate.test_accuracy(name, dtype, "same", "cpu")


@pytest.mark.parametrize("width", [7, 40, 1152])
def test_adaln_modulate_far_from_zero(width: int) -> None:
    test_adaln_modulate.test_rows_far_from_zero(width, "cpu")


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", GATED)
def test_gated_residual_adaln_accuracy(name: str, dtype: str) -> None:
    test_gated_residual_adaln.test_accuracy(name, dtype, "same", "cpu")


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", AXIS_CALLS)
def test_axis_attention_accuracy(name: str, dtype: torch.dtype) -> None:
    assert_as_good_as(axis_attention_reference, axis_attention, inputs_of(AXIS_CALLS[name], dtype))


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", [name for name, call in AXIS_CALLS.items() if call.shape[call.axis] > 0])
def test_axis_query_attention_accuracy(name: str, dtype: torch.dtype) -> None:
    qkv, axis, valid, *_ = inputs_of(AXIS_CALLS[name], dtype)
    q, kv = qkv.narrow(axis, 0, 1)[..., :1, :, :], qkv[..., 1:, :, :]
    assert_as_good_as(axis_query_attention_reference, axis_query_attention, [q, kv, axis, valid])


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_axis_attention_weights_in_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    assert_as_good_as(axis_attention_reference, axis_attention, inputs_of(CALLS["stdit-4"], dtype, dtype))


def gradients(run: Callable[[Tensor], Tensor], qkv: Tensor) -> list[Tensor]:
    qkv = qkv.clone().requires_grad_()
    out = run(qkv)
    return [out.detach(), *torch.autograd.grad(out, qkv, draw(*out.shape, dtype=out.dtype, seed=5))]


@pytest.mark.parametrize("part", [0, 1, 2], ids=["q", "k", "v"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("length", [3, 8, 33])
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_axis_attention_keeps_what_is_not_finite_in_its_problem(
    dtype: torch.dtype, length: int, value: float, part: int
) -> None:
    qkv = draw(5, length, 3, 2, 64, dtype=dtype)
    want = gradients(lambda x: axis_attention(x, 1), qkv)
    qkv[3, 1, part, 1, 5] = value
    got = gradients(lambda x: axis_attention(x, 1), qkv)
    others = torch.ones(5, 2, dtype=torch.bool)
    others[3, 1] = False
    for after, before in zip(got, want, strict=True):
        after, before = (t.movedim(-2, 1)[others] for t in (after, before))
        assert torch.equal(after, before)


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_axis_attention_never_reads_masked_rows(dtype: torch.dtype) -> None:
    test_axis_attention.test_masked_rows_are_never_read(dtype, "cpu")


def test_axis_attention_with_large_scores_and_missing_gradients() -> None:
    test_axis_attention.test_large_scores_do_not_overflow("cpu")
    test_axis_attention.test_expanded_and_missing_gradients("weights", "cpu")


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_axis_attention_same_bits_in_every_run(dtype: torch.dtype) -> None:
    arguments = inputs_of(Call((61, 6, 3, 16), 1, normed=True), dtype)
    grad = draw(61, 6, 3, 16, dtype=dtype)
    runs = [test_axis_attention.with_gradients(axis_attention, arguments, grad) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
