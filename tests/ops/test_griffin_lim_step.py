"""griffin_lim_step: the equation, what a step must not change, the raw op, the messages."""

from __future__ import annotations

import cmath
import math
from typing import NamedTuple

import pytest
import torch
from numerics import assert_equation
from torch import Tensor

from pavdit.ops._stft import spectrum, window_square_sum, windowed_columns
from pavdit.ops.griffin_lim_step import griffin_lim_step


class Case(NamedTuple):
    batch: int
    columns: int
    win_length: int
    n_fft: int
    hop_length: int


CASES = {
    "one": Case(1, 2, 4, 4, 2),
    "small": Case(2, 6, 12, 16, 4),
    "ragged": Case(3, 7, 11, 18, 4),
}
MOMENTUM = 0.99


def make(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    bins = (case.batch, case.columns, case.n_fft // 2 + 1)
    window = draw(case.win_length) + 0.1
    square_sum = window_square_sum(window, case.columns, case.n_fft, case.hop_length)
    columns = draw(case.batch, case.columns, case.win_length) - 0.5
    return columns, torch.complex(draw(*bins) - 0.5, draw(*bins) - 0.5), draw(*bins), window, square_sum


def reflect(s: int, samples: int) -> int:
    s = abs(s)
    return 2 * (samples - 1) - s if s >= samples else s


def by_index(
    columns: Tensor, previous: Tensor, magnitude: Tensor, window: Tensor, case: Case
) -> tuple[Tensor, Tensor]:
    """The docstring's equations, one element at a time, the sum of the squared windows included."""
    n_fft, hop, win = case.n_fft, case.hop_length, case.win_length
    samples = case.columns * hop
    start = [n * hop - (n_fft - hop) // 2 + (n_fft - win) // 2 for n in range(case.columns)]
    new, rebuilt = torch.zeros_like(columns), torch.zeros_like(previous)
    for b in range(case.batch):
        added, squares = [0.0] * samples, [0.0] * samples
        for n in range(case.columns):
            for i in range(win):
                if 0 <= start[n] + i < samples:
                    added[start[n] + i] += float(columns[b, n, i])
                    squares[start[n] + i] += float(window[i]) ** 2
        wave = [a / s for a, s in zip(added, squares, strict=True)]
        for n in range(case.columns):
            bins = []
            for k in range(n_fft // 2 + 1):
                value = sum(
                    float(window[i])
                    * wave[reflect(start[n] + i, samples)]
                    * cmath.exp(-2j * math.pi * k * i / n_fft)
                    for i in range(win)
                )
                rebuilt[b, n, k] = value
                ahead = value + MOMENTUM * (value - complex(previous[b, n, k]))
                bins.append(float(magnitude[b, n, k]) * ahead / abs(ahead))
            for i in range(win):
                total = bins[0].real  # an inverse real FFT: the first and the last bin have no mirror image
                for k in range(1, n_fft // 2 + 1):
                    pair = 1 if 2 * k == n_fft else 2
                    total += pair * (bins[k] * cmath.exp(2j * math.pi * k * i / n_fft)).real
                new[b, n, i] = float(window[i]) * total / n_fft
    return new, rebuilt


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_is_the_equation(case: Case) -> None:
    columns, previous, magnitude, window, square_sum = make(case)
    got = griffin_lim_step(
        columns, previous, magnitude, window, square_sum, case.n_fft, case.hop_length, MOMENTUM
    )
    want = by_index(columns, previous, magnitude, window, case)
    assert_equation(got[0], want[0], what="columns")
    assert_equation(torch.view_as_real(got[1]), torch.view_as_real(want[1]), what="rebuilt")


def test_a_real_spectrum_stays_as_it_is() -> None:
    case = CASES["small"]
    _, _, _, window, square_sum = make(case)
    wave = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    bins = spectrum(windowed_columns(wave, window, case.n_fft, case.hop_length), case.n_fft)
    columns = windowed_columns(wave, window, case.n_fft, case.hop_length) * window
    got, rebuilt = griffin_lim_step(
        columns, bins, bins.abs(), window, square_sum, case.n_fft, case.hop_length, MOMENTUM
    )
    assert_equation(got, columns, what="columns")
    assert_equation(torch.view_as_real(rebuilt), torch.view_as_real(bins), what="rebuilt")


def test_steps_approach_the_magnitude_of_a_wave() -> None:
    """Distance to the wanted magnitude, relative, after 1 and after 100 steps: measured 0.92 and 0.14."""
    n_fft, hop, num_columns = 32, 4, 32
    window = torch.hann_window(16, dtype=torch.float64)
    square_sum = window_square_sum(window, num_columns, n_fft, hop)
    wave = torch.randn(1, num_columns * hop, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    magnitude = spectrum(windowed_columns(wave, window, n_fft, hop), n_fft).abs()
    columns = torch.fft.irfft(magnitude, n=n_fft)[..., :16] * window
    rebuilt = torch.zeros_like(magnitude, dtype=torch.complex128)
    distances = []
    for _ in range(100):
        columns, rebuilt = griffin_lim_step(
            columns, rebuilt, magnitude, window, square_sum, n_fft, hop, MOMENTUM
        )
        distances.append(float((rebuilt.abs() - magnitude).norm() / magnitude.norm()))
    assert distances[-1] < 0.2 * distances[0]


def test_silence_stays_silent() -> None:
    case = CASES["small"]
    columns, previous, magnitude, window, square_sum = make(case, torch.float32)
    got, rebuilt = griffin_lim_step(
        columns * 0, previous * 0, magnitude * 0, window, square_sum, case.n_fft, case.hop_length, MOMENTUM
    )
    assert got.eq(0).all() and rebuilt.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_raw_op(case: Case, dtype: torch.dtype) -> None:
    raw = torch.ops.pavdit.griffin_lim_step.default
    torch.library.opcheck(raw, (*make(case, dtype), case.n_fft, case.hop_length, MOMENTUM))


def test_raw_op_refuses_gradients() -> None:
    case = CASES["small"]
    columns, *rest = make(case)
    with pytest.raises(RuntimeError, match=r"call pavdit\.ops\.griffin_lim_step"):
        torch.ops.pavdit.griffin_lim_step(
            columns.requires_grad_(), *rest, case.n_fft, case.hop_length, MOMENTUM
        )


def test_compiles_to_one_graph() -> None:
    case = CASES["small"]
    arguments = (*make(case), case.n_fft, case.hop_length, MOMENTUM)
    # Inductor generates no code for complex numbers, so there is nothing more of it to test
    got = torch.compile(griffin_lim_step, fullgraph=True, backend="aot_eager")(*arguments)
    want = griffin_lim_step(*arguments)
    assert_equation(got[0], want[0], what="columns")
    assert_equation(torch.view_as_real(got[1]), torch.view_as_real(want[1]), what="rebuilt")


BINS = torch.zeros(2, 6, 9)
BAD = {
    "columns": (
        {"columns": torch.zeros(6, 12)},
        ValueError,
        r"want columns \(B,N,win_length\).*got \(6, 12\)",
    ),
    "window": ({"window": torch.ones(11)}, ValueError, r"window \(win_length,\), got \(2, 6, 12\), \(11,\)"),
    "bins": ({"magnitude": BINS[..., 1:]}, ValueError, r"magnitude \(2, 6, 9\).*\(2, 6, 8\)"),
    "sum": ({"square_sum": torch.ones(23)}, ValueError, r"square_sum \(24,\), got .*\(23,\)"),
    "short": ({"n_fft": 64}, ValueError, r"reflect padding .* = 30, got 24"),
    "momentum": ({"momentum": -0.1}, ValueError, "want momentum >= 0, got -0.1"),
    "real": ({"previous": BINS}, TypeError, "want previous torch.complex64 on cpu, got torch.float32"),
    "mixed": ({"magnitude": BINS.double()}, TypeError, "want magnitude torch.float32 as columns"),
    "half": (
        {n: torch.zeros(2, dtype=torch.float16) for n in ("columns", "magnitude", "window", "square_sum")},
        TypeError,
        "want columns float32 or float64, got torch.float16",
    ),
}


@pytest.mark.parametrize(("change", "kind", "message"), BAD.values(), ids=BAD)
def test_messages(change: dict[str, object], kind: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "columns": torch.zeros(2, 6, 12),
        "previous": BINS.to(torch.complex64),
        "magnitude": BINS,
        "window": torch.ones(12),
        "square_sum": torch.ones(24),
        "n_fft": 16,
        "hop_length": 4,
        "momentum": MOMENTUM,
    }
    with pytest.raises(kind, match=f"^griffin_lim_step: .*{message}"):
        griffin_lim_step(**(arguments | change))  # type: ignore[arg-type]
