"""log_mel_frames: the equation, the gradient where levels are clamped, the raw op, the messages."""

from __future__ import annotations

import cmath
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.audio.mel import filterbank, hann_window
from pavdit.config import MelConfig
from pavdit.ops._library import build_facts, native
from pavdit.ops.log_mel_frames import _backward_raw, log_mel_frames, log_mel_frames_reference


class Case(NamedTuple):
    batch: int
    frames: int
    win_length: int
    n_fft: int
    hop_length: int
    columns_per_frame: int
    mels: int


CASES = {
    "one": Case(1, 1, 4, 4, 4, 1, 1),
    "small": Case(2, 3, 12, 16, 4, 2, 5),
    "ragged": Case(3, 2, 11, 18, 6, 5, 7),  # an odd window stands half a sample left of the middle
    "unpadded": Case(1, 4, 16, 16, 2, 3, 4),
}
FLOOR_DB = -100.0


def make(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    samples = max(case.frames * case.columns_per_frame * case.hop_length, case.n_fft)
    samples -= samples % (case.columns_per_frame * case.hop_length)
    wave = torch.rand(case.batch, samples, generator=generator, dtype=torch.float64) - 0.5
    window = torch.rand(case.win_length, generator=generator, dtype=torch.float64) + 0.1
    bank = torch.rand(case.mels, case.n_fft // 2 + 1, generator=generator, dtype=torch.float64)
    return wave.to(dtype), window.to(work), (bank / bank.sum(1, keepdim=True)).to(work)


def numbers(case: Case) -> tuple[int, int, int, float]:
    return case.n_fft, case.hop_length, case.columns_per_frame, FLOOR_DB


def by_index(wave: Tensor, window: Tensor, bank: Tensor, case: Case) -> Tensor:
    """The docstring's equation, one element at a time."""
    n_fft, hop = case.n_fft, case.hop_length
    pad, samples = (n_fft - hop) // 2, wave.shape[1]
    first = (n_fft - case.win_length) // 2
    full_scale = float(window.sum()) / 2
    columns = samples // hop
    out = torch.empty(wave.shape[0], columns // case.columns_per_frame, case.mels, case.columns_per_frame)
    out = out.double()
    for b in range(wave.shape[0]):
        for n in range(columns):
            levels = []
            for k in range(n_fft // 2 + 1):
                total = 0j
                for i in range(case.win_length):
                    s = n * hop - pad + first + i
                    s = -s if s < 0 else s
                    s = 2 * (samples - 1) - s if s >= samples else s
                    angle = -2 * math.pi * k * (first + i) / n_fft
                    total += float(window[i]) * float(wave[b, s]) * cmath.exp(1j * angle)
                levels.append(abs(total) / full_scale)
            for m in range(case.mels):
                mean = sum(float(bank[m, k]) * level for k, level in enumerate(levels))
                level_db = min(max(20 * math.log10(max(mean, 1e-30)), FLOOR_DB), 0.0)
                frame, column = divmod(n, case.columns_per_frame)
                out[b, frame, m, column] = 1 - 2 * level_db / FLOOR_DB
    return out


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_is_the_equation(case: Case) -> None:
    wave, window, bank = make(case)
    got = log_mel_frames(wave, window, bank, *numbers(case))
    assert_equation(got, by_index(wave, window, bank, case))


def test_strided_and_reversed_inputs() -> None:
    case = CASES["small"]
    wave, window, bank = make(case)
    wide = torch.zeros(wave.shape[0], 2 * wave.shape[1], dtype=wave.dtype)
    wide[:, ::2] = wave
    got = log_mel_frames(wide[:, ::2], window, bank.T.contiguous().T, *numbers(case))
    assert_equation(got, log_mel_frames(wave, window, bank, *numbers(case)))
    assert got.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    case = CASES["small"]
    wave, window, bank = make(case, dtype)
    got = log_mel_frames(wave, window, bank, *numbers(case))
    want = log_mel_frames(wave.float(), window, bank, *numbers(case)).to(dtype)
    assert got.dtype == dtype and torch.equal(got, want)


def test_gradient_is_that_of_the_equation() -> None:
    case = CASES["small"]
    wave, window, bank = make(case)
    wave.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: log_mel_frames(w, window, bank, *numbers(case)), wave)


@pytest.mark.parametrize("gain", [0.0, 1e-9, 1e3], ids=["silence", "below_floor", "above_full_scale"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_is_zero_where_the_level_is_clamped(gain: float, dtype: torch.dtype) -> None:
    case = CASES["small"]
    wave, window, bank = make(case, dtype)
    wave = (wave * gain).requires_grad_()
    images = log_mel_frames(wave, window, bank, *numbers(case))
    (gradient,) = torch.autograd.grad(images.sum(), wave)
    assert images.unique().tolist() == [1.0 if gain > 1 else -1.0]
    assert torch.equal(gradient, torch.zeros_like(wave))


def test_gradient_is_zero_on_the_bound_itself() -> None:
    wave = torch.ones(1, 8, dtype=torch.float64, requires_grad=True)  # each sample is a column of level 0 dB
    one = torch.ones(1, dtype=torch.float64)
    images = log_mel_frames(wave, 2 * one, one[None], 1, 1, 2, FLOOR_DB)
    (gradient,) = torch.autograd.grad(images.sum(), wave)
    assert images.min() == 1 and torch.equal(gradient, torch.zeros_like(wave))


def test_gradient_of_a_wave_with_silent_parts_is_finite() -> None:
    case = CASES["small"]
    wave, window, bank = make(case, torch.float32)
    wave[:, 8:] = 0
    wave.requires_grad_()
    (gradient,) = torch.autograd.grad(log_mel_frames(wave, window, bank, *numbers(case)).sum(), wave)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_nan_in_the_wave_is_not_hidden() -> None:
    case = CASES["small"]
    wave, window, bank = make(case)
    wave[0, 3] = math.nan
    got = log_mel_frames(wave, window, bank, *numbers(case))
    assert got[0].isnan().any() and not got[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["one", "small", "unpadded"])
def test_raw_ops(name: str, dtype: torch.dtype) -> None:
    inputs = (*make(CASES[name], dtype), *numbers(CASES[name]))
    torch.library.opcheck(torch.ops.pavdit.log_mel_frames.default, inputs)
    grad = torch.ones_like(log_mel_frames(*inputs))
    torch.library.opcheck(torch.ops.pavdit.log_mel_frames_backward.default, (grad, *inputs))


def test_raw_op_refuses_gradients() -> None:
    case = CASES["small"]
    wave, window, bank = make(case, torch.float32)
    with pytest.raises(RuntimeError, match=r"call pavdit\.ops\.log_mel_frames"):
        torch.ops.pavdit.log_mel_frames(wave.requires_grad_(), window, bank, *numbers(case))


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_compiles_to_one_graph(needs_gradient: bool) -> None:
    case = CASES["small"]
    wave, window, bank = make(case, torch.float32)
    compiled = torch.compile(log_mel_frames, fullgraph=True, dynamic=True)
    for repeats in (1, 2):
        waves = wave.repeat(repeats, 1).requires_grad_(needs_gradient)
        got, want = (op(waves, window, bank, *numbers(case)) for op in (compiled, log_mel_frames))
        assert_equation(got, want)
        if needs_gradient:
            gradients = (torch.autograd.grad(images.square().sum(), waves)[0] for images in (got, want))
            torch.testing.assert_close(*gradients)


# ---- the native kernels: what they return for every shape, against the reference in float64 ----

NATIVE = native("log_mel_frames", torch.empty(0))
needs_native = pytest.mark.skipif(not NATIVE, reason="no native library")
LOW = [torch.float32, torch.bfloat16, torch.float16]
CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]


class Call(NamedTuple):
    """A wave, and the spectrogram of it."""

    batch: int
    samples: int
    mels: int
    sound: str = "noise"
    n_fft: int = 2048
    win_length: int = 512
    hop_length: int = 50
    columns_per_frame: int = 32
    layout: str = "packed"


CALLS = {
    "one": Call(1, 4, 1, "noise", 4, 4, 4, 1),
    "model": Call(1, 25_600, 256),
    "small": Call(2, 6_400, 128),
    "sine": Call(1, 6_400, 256, "sine"),
    "quiet": Call(1, 6_400, 128, "quiet"),
    "silence": Call(2, 3_200, 64, "silence"),
    "17-fps": Call(1, 12 * 960, 64, "noise", 2048, 512, 30, 32),
    "no-frames": Call(1, 25_600, 40, "noise", 1024, 1024, 100, 256),
    "ragged": Call(3, 35 * 14, 7, "noise", 64, 37, 14, 5),  # 35 columns: no multiple of any vector
    "shortest": Call(2, 1_000, 64, "noise", 2048, 512, 50, 5),  # one sample more than the padding
    "odd-power": Call(2, 4_000, 20, "noise", 512, 320, 40, 4),
    "two-points": Call(2, 60, 3, "noise", 8, 3, 2, 3),
    "wide": Call(1, 16_384, 30, "noise", 4096, 4096, 512, 8),
    "whole-window": Call(1, 1_600, 64, "noise", 2048, 2048, 50, 32),
    "small-transform": Call(3, 35 * 14, 7, "noise", 128, 37, 14, 5),
    "strided": Call(3, 6_400, 64, "noise", 2048, 512, 50, 32, "strided"),
    "unaligned": Call(2, 6_400, 64, "noise", 2048, 512, 50, 32, "unaligned"),
    "no-batch": Call(0, 6_400, 64),
    "no-mels": Call(2, 6_400, 0),
    "70000-columns": Call(2, 4 * 35_000, 4, "noise", 16, 12, 4, 7),
}


def sound(call: Call) -> Tensor:
    generator = torch.Generator().manual_seed(call.samples + call.mels)
    noise = torch.randn(call.batch, call.samples, generator=generator, dtype=torch.float64)
    if call.sound == "sine":
        return torch.sin(torch.arange(call.samples, dtype=torch.float64) * 0.31) + 1e-4 * noise
    return noise * {"noise": 0.1, "quiet": 1e-4, "silence": 0.0}[call.sound]


def inputs_of(call: Call, dtype: torch.dtype, device: str = "cpu") -> list[Any]:
    """Everything that `log_mel_frames` takes; the model's own filters where they fit."""
    wave = sound(call).to(dtype)
    if call.layout == "strided":
        wave = torch.stack([wave, wave], -1)[..., 0]
    if call.layout == "unaligned":
        wave = torch.cat([wave.flatten()[:1], wave.flatten()])[1:].view_as(wave)
    if call.n_fft == 2048 and call.mels > 0:
        bank = filterbank(MelConfig(n_mels=call.mels), 16_000)
    else:  # a band, its edges of weight 0, and a filter without any weight
        bank = torch.rand(call.mels, call.n_fft // 2 + 1, generator=torch.Generator().manual_seed(1))
        bank = bank.triu(-1).tril(call.n_fft // 4)
        bank[1:2] = 0
    tensors = [t.to(device) for t in (wave, hann_window(call.win_length) + 0.01, bank)]
    return [*tensors, call.n_fft, call.hop_length, call.columns_per_frame, FLOOR_DB]


def double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) else value


def with_gradient(op: Any, arguments: list[Any], seed: int = 4) -> list[Tensor]:
    wave, *rest = arguments
    leaf = wave.detach().requires_grad_()
    images = op(leaf, *rest)
    grad = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)
    return [images.detach(), *torch.autograd.grad(images, leaf, grad)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_accuracy(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = inputs_of(CALLS[name], dtype, device)
    got = log_mel_frames(*arguments)
    assert got.is_contiguous() and got.dtype == dtype
    exact = log_mel_frames_reference(*(double(a) for a in arguments))
    assert_no_worse(got, log_mel_frames_reference(*arguments), exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", ["model", "ragged", "shortest", "two-points", "strided", "no-batch"])
def test_gradient_is_no_worse_than_eager(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = inputs_of(CALLS[name], dtype, device)
    exact = with_gradient(log_mel_frames_reference, [double(a) for a in arguments])
    eager = with_gradient(log_mel_frames_reference, arguments)
    for what, *tensors in zip(
        ("images", "gradient"), with_gradient(log_mel_frames, arguments), eager, exact, strict=True
    ):
        assert_no_worse(*tensors, what=what)


@pytest.mark.parametrize("device", DEVICES)
def test_a_minute(device: str) -> None:
    arguments = inputs_of(Call(1, 960_000, 128), torch.float32, device)
    exact = log_mel_frames_reference(*(double(a) for a in arguments))
    assert_no_worse(log_mel_frames(*arguments), log_mel_frames_reference(*arguments), exact)


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


@pytest.mark.parametrize("name", ["ragged", "shortest", "two-points", "sine", "silence"])
def test_written_out_gradient_is_autograd(name: str) -> None:
    arguments = [double(a) for a in inputs_of(CALLS[name], torch.float64)]
    _, want = with_gradient(log_mel_frames_reference, arguments)
    images = log_mel_frames_reference(*arguments)
    grad = torch.randn(images.shape, generator=torch.Generator().manual_seed(4)).double()
    assert_equation(_backward_raw(grad, *arguments), want)


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_in_every_run(device: str) -> None:
    arguments = inputs_of(CALLS["small-transform"], torch.float32, device)
    threads = torch.get_num_threads()
    first = log_mel_frames(*arguments)
    try:
        torch.set_num_threads(3)
        second = log_mel_frames(*arguments)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first, second)


@CUDA
def test_cuda_graph_replays_other_waves() -> None:
    wave, *rest = inputs_of(CALLS["model"], torch.float32, "cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        log_mel_frames(wave, *rest)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        images = log_mel_frames(wave, *rest)
    wave.copy_(wave.flip(1))
    graph.replay()
    assert torch.equal(images, log_mel_frames(wave, *rest))


def test_two_threads_at_once() -> None:
    arguments = inputs_of(CALLS["sine"], torch.float32)
    want = log_mel_frames(*arguments)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: log_mel_frames(*arguments), range(16)))
    assert all(torch.equal(result, want) for result in results)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_what_is_not_finite_breaks_the_columns_that_see_it(dtype: torch.dtype, value: float) -> None:
    wave, window, *rest = inputs_of(CALLS["shortest"], dtype)
    window = window.clone()
    window[300] = 0  # 0 times infinity is no number either
    wave = wave.clone()
    wave[1, 600] = value
    broken = log_mel_frames(wave, window, *rest).isnan()
    assert torch.equal(broken, log_mel_frames_reference(wave, window, *rest).isnan())
    assert not broken[0].any()
    assert int(broken[1].all(dim=1).sum()) == 10  # of 20: windows of 512 samples, 50 apart


@pytest.mark.parametrize("gain", [0.0, 1e-9, 1e3], ids=["silence", "below_floor", "above_full_scale"])
def test_clamped_levels_are_the_bounds_themselves(gain: float) -> None:
    wave, *rest = inputs_of(CALLS["odd-power"], torch.float32)
    rest[1] = torch.rand_like(rest[1]) + 0.1
    images = log_mel_frames(gain * wave, *rest)
    assert images.unique().tolist() == [1.0 if gain > 1 else -1.0]


def test_expanded_and_missing_gradients() -> None:
    gradients = []
    for op in (log_mel_frames, log_mel_frames_reference):
        wave, *rest = inputs_of(CALLS["ragged"], torch.float32)
        wave.requires_grad_()
        op(wave, *rest).sum().backward()  # the gradient of sum is one number, expanded
        gradients.append(wave.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("learned", [1, 2], ids=["window", "filterbank"])
def test_tables_that_learn_take_the_reference(learned: int) -> None:
    arguments = inputs_of(CALLS["ragged"], torch.float32)
    arguments[learned] = arguments[learned].clone().requires_grad_()
    log_mel_frames(*arguments).sum().backward()
    assert arguments[learned].grad.abs().max() > 0


@needs_native
def test_has_no_second_derivative() -> None:
    wave, *rest = inputs_of(CALLS["ragged"], torch.float32)
    wave.requires_grad_()
    (dwave,) = torch.autograd.grad(log_mel_frames(wave, *rest).square().sum(), wave, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dwave.sum().backward()


RAW_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"wave": torch.zeros(1, 48).double()}, "want wave in float32, bfloat16 or float16"),
    "rank": ({"wave": torch.zeros(48)}, r"want wave \(B,S\).*got \(48\), \(12\), \(5, 9\)"),
    "window": ({"window": torch.ones(17)}, "win_length <= n_fft, got 4, 17, 16"),
    "window dtype": ({"window": torch.ones(12).half()}, "want window and filterbank in float32"),
    "bank": ({"filterbank": torch.zeros(5, 8)}, r"want filterbank \(M,9\), got \(5, 8\)"),
    "bank dtype": ({"filterbank": torch.zeros(5, 9).double()}, "want window and filterbank in float32"),
    "power": ({"n_fft": 18, "filterbank": torch.zeros(5, 10)}, "want n_fft a power of two in 4..32768, got"),
    "large": ({"n_fft": 2**16}, "want n_fft a power of two in 4..32768, got 65536"),
    "small": ({"n_fft": 2}, "want n_fft a power of two in 4..32768, got 2"),
    "parity": ({"hop_length": 3}, "want n_fft - hop_length even, got 16 - 3"),
    "hop": ({"hop_length": 0}, "want 0 < hop_length"),
    "negative hop": ({"hop_length": -4}, "want 0 < hop_length"),
    "samples": ({"wave": torch.zeros(1, 46)}, "multiples of hop_length = 4, got 46"),
    "short": ({"wave": torch.zeros(1, 4)}, "reflect padding .* = 6, got 4"),
    "frame": ({"wave": torch.zeros(1, 44)}, r"hop_length \* columns_per_frame = 4 \* 2, got 44"),
    "columns": ({"columns_per_frame": 0}, r"4 \* 0, got 48"),
    "floor": ({"floor_db": 0.0}, "want floor_db in -300..0, got 0"),
    "low floor": ({"floor_db": -301.0}, "want floor_db in -300..0, got -301"),
    "no floor": ({"floor_db": math.nan}, "want floor_db in -300..0, got nan"),
}
GOOD: dict[str, Any] = {
    "wave": torch.zeros(1, 48),
    "window": torch.ones(12),
    "filterbank": torch.zeros(5, 9),
    "n_fft": 16,
    "hop_length": 4,
    "columns_per_frame": 2,
    "floor_db": FLOOR_DB,
}


@needs_native
@pytest.mark.parametrize(("change", "text"), RAW_ERRORS.values(), ids=RAW_ERRORS.keys())
def test_raw_error_text(change: dict[str, Any], text: str) -> None:
    with pytest.raises(RuntimeError, match=f"log_mel_frames: .*{text}"):
        torch.ops.pavdit.log_mel_frames(*(GOOD | change).values())


BAD = {
    "rank": ({"wave": torch.zeros(48)}, ValueError, r"want wave \(B,S\).*got \(48,\), \(12,\), \(5, 9\)"),
    "hop": ({"wave": torch.zeros(1, 47)}, ValueError, "multiples of hop_length = 4, got 47"),
    "frame": ({"wave": torch.zeros(1, 44)}, ValueError, r"hop_length \* columns_per_frame = 4 \* 2, got 44"),
    "short": (
        {"wave": torch.zeros(1, 4), "columns_per_frame": 1},
        ValueError,
        "reflect padding .* = 6, got 4",
    ),
    "bank": ({"filterbank": torch.zeros(5, 8)}, ValueError, r"want filterbank \(M,9\) .*, got \(5, 8\)"),
    "window": ({"window": torch.ones(17)}, ValueError, "win_length <= n_fft, got 4, 17, 16"),
    "parity": ({"n_fft": 17, "window": torch.ones(16)}, ValueError, "n_fft - hop_length even, got 17 - 4"),
    "floor": ({"floor_db": 0.0}, ValueError, "want floor_db < 0, got 0"),
    "columns": ({"columns_per_frame": 0}, ValueError, r"4 \* 0, got 48"),
    "integer": ({"wave": torch.zeros(1, 48, dtype=torch.int16)}, TypeError, "want wave .*, got torch.int16"),
    "double": ({"wave": torch.zeros(1, 48, dtype=torch.float64)}, TypeError, "want .*float64 beside"),
    "device": (
        {"wave": torch.zeros(1, 48, device="meta")},
        ValueError,
        "want window on meta as wave, got cpu",
    ),
}


@pytest.mark.parametrize(("change", "kind", "message"), BAD.values(), ids=BAD)
def test_messages(change: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^log_mel_frames: .*{message}"):
        log_mel_frames(**(GOOD | change))
