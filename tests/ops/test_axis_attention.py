"""The native kernels of `axis_attention` and `axis_query_attention`: every shape, against float64."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from axis_calls import (
    CALLS,
    CUDA,
    DEVICES,
    LOW,
    Call,
    assert_as_good_as,
    draw,
    inputs_of,
    needs_native,
    with_gradients,
)
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops import axis_attention, axis_query_attention
from pavdit.ops._axis_reference import (
    axis_attention_reference,
    axis_query_attention_reference,
    backward_raw,
    query_backward_raw,
)
from pavdit.ops._library import build_facts
from pavdit.ops.axis_attention import MAX_LENGTH, MAX_WIDTH


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_accuracy(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = inputs_of(CALLS[name], dtype, device=device)
    assert_as_good_as(axis_attention_reference, axis_attention, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_query_accuracy(name: str, dtype: torch.dtype, device: str) -> None:
    qkv, axis, valid, *_ = inputs_of(CALLS[name], dtype, device=device)
    if qkv.shape[axis] == 0:
        pytest.skip("no query where there is no token")
    q, kv = qkv.narrow(axis, 0, 1)[..., :1, :, :], qkv[..., 1:, :, :]
    assert_as_good_as(axis_query_attention_reference, axis_query_attention, [q, kv, axis, valid])


LENGTHS = [*range(2, 18), 25, 33, 48, 65, 80]  # around whole vectors and tiles of queries
WIDTHS = [(48, torch.float32), (64, torch.float32), (72, torch.float32), (96, torch.float32)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("width", "dtype"), [*WIDTHS, (72, torch.bfloat16), (64, torch.float16)], ids=str)
def test_accuracy_at_every_length(width: int, dtype: torch.dtype, device: str) -> None:
    for length in LENGTHS:
        arguments = inputs_of(Call((1, length, 5, width), 1, masked=length % 3 == 0), dtype, device=device)
        assert_as_good_as(axis_attention_reference, axis_attention, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_accuracy_with_weights_in_the_dtype_of_the_input(dtype: torch.dtype, device: str) -> None:
    arguments = inputs_of(CALLS["stdit-4"], dtype, dtype, device)
    assert_as_good_as(axis_attention_reference, axis_attention, arguments)


@needs_native
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_accuracy_with_less_capable_processors(capability: str) -> None:
    facts = build_facts()
    if facts is None or facts.cpu_capability() in ("baseline", capability):
        pytest.skip("no facts, or this process runs it already")
    environment = os.environ | {"PAVDIT_CPU_CAPABILITY": capability, "PAVDIT_REQUIRE_KERNELS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "accuracy and cpu and not less_capable"]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(Path(__file__))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["time-8", "stdit-4", "ragged-pairs", "projector"])
def test_written_out_gradient_is_autograd(name: str, dtype: torch.dtype) -> None:
    arguments = inputs_of(CALLS[name], dtype)
    grad = draw(*CALLS[name].shape, dtype=dtype, seed=5)
    found = [g for g in backward_raw(grad, *arguments) if g.numel() > 0]
    for got, want in zip(found, with_gradients(axis_attention_reference, arguments, grad)[1:], strict=True):
        assert_equation(got.to(want.dtype), want)
    qkv, axis, valid, *_ = arguments
    query = [qkv.narrow(axis, 0, 1)[..., :1, :, :], qkv[..., 1:, :, :], axis, valid]
    grad = grad.narrow(axis, 0, 1)
    wanted = with_gradients(axis_query_attention_reference, query, grad)[1:]
    for got, want in zip(query_backward_raw(grad, *query), wanted, strict=True):
        assert_equation(got, want)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["ragged-pairs", "strided", "projector"])
def test_raw_backward_ops(name: str, device: str) -> None:
    arguments = inputs_of(CALLS[name], torch.bfloat16, device=device)
    grad = draw(*CALLS[name].shape, dtype=torch.bfloat16, seed=5).to(device)
    torch.library.opcheck(torch.ops.pavdit.axis_attention.default, tuple(arguments))
    torch.library.opcheck(torch.ops.pavdit.axis_attention_backward.default, (grad, *arguments))
    qkv, axis, valid, *_ = arguments
    query = (qkv.narrow(axis, 0, 1)[..., :1, :, :], qkv[..., 1:, :, :], axis, valid)
    torch.library.opcheck(torch.ops.pavdit.axis_query_attention.default, query)
    torch.library.opcheck(
        torch.ops.pavdit.axis_query_attention_backward.default, (grad.narrow(axis, 0, 1), *query)
    )


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_in_every_run(device: str) -> None:
    arguments = inputs_of(Call((301, 6, 3, 16), 1, normed=True), torch.float32, device=device)
    grad = draw(301, 6, 3, 16, dtype=torch.float32).to(device)
    threads = torch.get_num_threads()
    first = with_gradients(axis_attention, arguments, grad)
    try:
        torch.set_num_threads(3)
        second = with_gradients(axis_attention, arguments, grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_masked_rows_are_never_read(dtype: torch.dtype, device: str) -> None:
    qkv, axis, valid, *_ = inputs_of(CALLS["projector-33"], dtype, device=device)
    assert valid is not None
    poisoned = qkv.clone()
    poisoned[..., 1:, :, :][~valid] = torch.nan
    poisoned.requires_grad_()
    out = axis_attention(poisoned, axis, valid)
    assert torch.equal(out, axis_attention(qkv, axis, valid))
    (dqkv,) = torch.autograd.grad(out.float().square().sum(), poisoned)
    assert bool((dqkv[..., 1:, :, :][~valid] == 0).all())
    assert bool(dqkv.isfinite().all())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_what_is_not_a_number_stays_in_its_problem(dtype: torch.dtype, device: str) -> None:
    qkv = draw(3, 8, 3, 2, 64, dtype=dtype).to(device)
    qkv[1, 4, 0, 1, 5] = torch.nan  # one query
    qkv[2, 3, 1, 0, 7] = torch.nan  # one key
    broken = axis_attention(qkv, 1).isnan().all(-1)
    want = torch.zeros(3, 8, 2, dtype=torch.bool, device=device)
    want[1, 4, 1] = True
    want[2, :, 0] = True
    assert torch.equal(broken, want)


@pytest.mark.parametrize("device", DEVICES)
def test_large_scores_do_not_overflow(device: str) -> None:
    qkv = draw(2, 8, 3, 2, 16, dtype=torch.float32).to(device)
    qkv[..., :2, :, :] *= 1e4
    out = axis_attention(qkv, 1)
    assert_no_worse(
        out, axis_attention_reference(qkv, 1, None, None, None, None), axis_attention(qkv.double(), 1)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needs", ["qkv", "weights"])
def test_expanded_and_missing_gradients(needs: str, device: str) -> None:
    arguments = inputs_of(CALLS["stdit"], torch.float32, device=device)
    grads = []
    for op in (axis_attention, axis_attention_reference):
        leaves = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
        wanted = leaves[:1] if needs == "qkv" else leaves[3:5]
        for leaf in wanted:
            leaf.requires_grad_()
        op(*leaves).sum().backward()  # the gradient of sum is one number, expanded
        grads.append([leaf.grad for leaf in wanted])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_rope_that_learns_and_mixed_weights_take_the_reference() -> None:
    qkv, axis, _, q_weight, k_weight, rope = inputs_of(CALLS["stdit-4"], torch.bfloat16)
    rope.requires_grad_()
    axis_attention(qkv, axis, None, q_weight, k_weight.bfloat16(), rope).sum().backward()
    assert rope.grad is not None


@pytest.mark.parametrize("shape", [(2, MAX_LENGTH + 1, 3, 1, 8), (1, 4, 3, 1, MAX_WIDTH + 8)], ids=str)
def test_beyond_the_native_sizes_the_reference_serves(shape: tuple[int, ...]) -> None:
    qkv = draw(*shape, dtype=torch.float32)
    assert_equation(axis_attention(qkv, 1), axis_attention_reference(qkv, 1, None, None, None, None))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_with_gradients_as_one_graph(device: str) -> None:
    arguments = inputs_of(CALLS["ragged-pairs"], torch.float32, device=device)
    grad = draw(*CALLS["ragged-pairs"].shape, dtype=torch.float32, seed=5).to(device)
    compiled = torch.compile(axis_attention, fullgraph=True)
    pairs = zip(
        with_gradients(compiled, arguments, grad),
        with_gradients(axis_attention, arguments, grad),
        strict=True,
    )
    for got, want in pairs:
        assert_equation(got, want)


@CUDA
def test_cuda_uses_the_current_stream() -> None:
    arguments = inputs_of(CALLS["time"], torch.bfloat16, device="cuda")
    want = axis_attention(*arguments)
    stream = torch.cuda.Stream()
    late = torch.zeros_like(arguments[0])
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # some 50 ms: a launch on another stream would read zeros
        late.copy_(arguments[0])
        got = axis_attention(late, *arguments[1:])
    stream.synchronize()
    assert torch.equal(got, want)


@CUDA
@pytest.mark.parametrize("name", ["stdit", "projector"])
def test_cuda_graph_replays_forward_and_backward(name: str) -> None:
    arguments = inputs_of(CALLS[name], torch.bfloat16, device="cuda")
    leaf = arguments[0].clone().requires_grad_()
    grad = torch.randn_like(leaf[..., 0, :, :])

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(axis_attention(leaf, *arguments[1:]), leaf, grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaf.copy_(leaf.flip(0))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


@CUDA
def test_cuda_refuses_a_weight_of_another_device() -> None:
    qkv, weight = torch.zeros(2, 4, 3, 2, 8, device="cuda"), torch.ones(8)
    with pytest.raises(RuntimeError, match="axis_attention: want q_weight on the device of its input"):
        torch.ops.pavdit.axis_attention(qkv, 1, None, weight, weight, None)


@pytest.mark.parametrize("device", DEVICES)
def test_two_threads_at_once(device: str) -> None:
    qkv = draw(50, 8, 3, 4, 64, dtype=torch.float32).to(device)
    want = axis_attention(qkv, 1)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: axis_attention(qkv, 1), range(32)))
    assert all(torch.equal(result, want) for result in results)


@needs_native
def test_has_no_second_derivative() -> None:
    qkv = draw(2, 4, 3, 2, 8, dtype=torch.float32).requires_grad_()
    (dqkv,) = torch.autograd.grad(axis_attention(qkv, 1).square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dqkv.sum().backward()
