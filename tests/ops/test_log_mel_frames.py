"""log_mel_frames: the equation, the gradient where levels are clamped, the raw op, the messages."""

from __future__ import annotations

import cmath
import math
from typing import NamedTuple

import pytest
import torch
from numerics import assert_equation
from torch import Tensor

from pavdit.ops.log_mel_frames import log_mel_frames


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
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_raw_op(case: Case, dtype: torch.dtype) -> None:
    raw = torch.ops.pavdit.log_mel_frames.default
    torch.library.opcheck(raw, (*make(case, dtype), *numbers(case)))


def test_raw_op_refuses_gradients() -> None:
    case = CASES["small"]
    wave, window, bank = make(case)
    with pytest.raises(RuntimeError, match=r"call pavdit\.ops\.log_mel_frames"):
        torch.ops.pavdit.log_mel_frames(wave.requires_grad_(), window, bank, *numbers(case))


def test_compiles_to_one_graph() -> None:
    case = CASES["small"]
    inputs = make(case, torch.float32)
    compiled = torch.compile(log_mel_frames, fullgraph=True)
    got = compiled(*inputs, *numbers(case))
    assert_equation(got, log_mel_frames(*inputs, *numbers(case)))


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
    arguments: dict[str, object] = {
        "wave": torch.zeros(1, 48),
        "window": torch.ones(12),
        "filterbank": torch.zeros(5, 9),
        "n_fft": 16,
        "hop_length": 4,
        "columns_per_frame": 2,
        "floor_db": FLOOR_DB,
    }
    with pytest.raises(kind, match=f"^log_mel_frames: .*{message}"):
        log_mel_frames(**(arguments | change))  # type: ignore[arg-type]
