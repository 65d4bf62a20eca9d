"""griffin_lim_step: the equation, what a step must not change, the raw op, the messages."""

from __future__ import annotations

import cmath
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops._library import build_facts, native
from pavdit.ops._stft import spectrum, window_square_sum, windowed_columns
from pavdit.ops.griffin_lim_step import griffin_lim_step, griffin_lim_step_reference


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


@pytest.mark.parametrize("name", ["one", "small"])
def test_raw_op(name: str) -> None:
    raw, case = torch.ops.pavdit.griffin_lim_step.default, CASES[name]
    torch.library.opcheck(raw, (*make(case, torch.float32), case.n_fft, case.hop_length, MOMENTUM))


def test_raw_op_refuses_gradients() -> None:
    case = CASES["small"]
    columns, *rest = make(case, torch.float32)
    with pytest.raises(RuntimeError, match=r"call pavdit\.ops\.griffin_lim_step"):
        torch.ops.pavdit.griffin_lim_step(
            columns.requires_grad_(), *rest, case.n_fft, case.hop_length, MOMENTUM
        )


def test_compiles_to_one_graph() -> None:
    # Inductor generates no code for complex numbers, so there is nothing more of it to test
    compiled = torch.compile(griffin_lim_step, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 3):
        case = CASES["small"]._replace(batch=batch)
        arguments = (*make(case, torch.float32), case.n_fft, case.hop_length, MOMENTUM)
        got, want = compiled(*arguments), griffin_lim_step(*arguments)
        assert_equation(got[0], want[0], what="columns")
        assert_equation(torch.view_as_real(got[1]), torch.view_as_real(want[1]), what="rebuilt")


# ---- the native kernels: what they return for every shape, against the reference in float64 ----

NATIVE = native("griffin_lim_step", torch.empty(0))
needs_native = pytest.mark.skipif(not NATIVE, reason="no native library")
CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
SHAPES = {
    **CASES,
    "model": Case(1, 512, 512, 2048, 50),
    "17-fps": Case(2, 70, 512, 2048, 30),
    "odd-power": Case(2, 37, 320, 512, 40),  # 37 columns: no multiple of any vector
    "odd-window": Case(1, 21, 37, 64, 14),
    "whole-window": Case(1, 40, 1024, 1024, 100),
    "two-points": Case(3, 10, 3, 8, 2),
    "long-hops": Case(1, 9, 256, 256, 128),
    "small-transform": Case(3, 35, 37, 128, 14),
    "no-batch": Case(0, 40, 64, 128, 20),
    "66000-columns": Case(2, 33_000, 6, 8, 2),
}


def arguments_of(case: Case, device: str = "cpu") -> list[Any]:
    tensors = [t.to(device) for t in make(case, torch.float32)]
    return [*tensors, case.n_fft, case.hop_length, MOMENTUM]


def double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(torch.complex128) if value.is_complex() else value.double()
    return value


def as_real(result: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [result[0], torch.view_as_real(result[1])]


def assert_as_good_as_eager(arguments: list[Any]) -> None:
    exact = griffin_lim_step_reference(*(double(a) for a in arguments))
    eager, got = (op(*arguments) for op in (griffin_lim_step_reference, griffin_lim_step))
    assert all(t.is_contiguous() for t in got)
    for what, *tensors in zip(
        ("columns", "rebuilt"), as_real(got), as_real(eager), as_real(exact), strict=True
    ):
        assert_no_worse(*tensors, what=what)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SHAPES)
def test_accuracy(name: str, device: str) -> None:
    assert_as_good_as_eager(arguments_of(SHAPES[name], device))


@pytest.mark.parametrize("device", DEVICES)
def test_accuracy_of_strided_inputs(device: str) -> None:
    arguments = arguments_of(SHAPES["odd-window"], device)
    for i in range(3):
        arguments[i] = torch.stack([arguments[i]] * 2, -1)[..., 0]
    arguments[1] = arguments[1].conj().resolve_conj().conj()  # the conjugate of what is stored
    assert_as_good_as_eager(arguments)


@pytest.mark.parametrize("gain", [1e-30, 1e18], ids=["faint", "loud"])
@pytest.mark.parametrize("device", DEVICES)
def test_accuracy_of_phases_at_the_ends_of_the_range(gain: float, device: str) -> None:
    columns, previous, *rest = arguments_of(SHAPES["odd-power"], device)
    got = griffin_lim_step(columns * gain, previous * gain, *rest)
    want = griffin_lim_step_reference(columns, previous, *rest)
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-4)


@needs_native
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_accuracy_with_less_capable_processors(capability: str) -> None:
    facts = build_facts()
    if facts is None or facts.cpu_capability() in ("baseline", capability):
        pytest.skip("no facts, or this process runs it already")
    environment = os.environ | {"PAVDIT_CPU_CAPABILITY": capability, "PAVDIT_REQUIRE_KERNELS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "accuracy and not cuda and not less_capable"]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(Path(__file__))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:]


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_in_every_run(device: str) -> None:
    arguments = arguments_of(SHAPES["odd-power"], device)
    threads = torch.get_num_threads()
    first = griffin_lim_step(*arguments)
    try:
        torch.set_num_threads(3)
        second = griffin_lim_step(*arguments)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_nan_stays_where_its_sample_is_seen() -> None:
    columns, *rest = arguments_of(SHAPES["odd-window"]._replace(batch=2))
    columns[1, 10, 3] = math.nan
    got, rebuilt = griffin_lim_step(columns, *rest)
    assert got[0].isfinite().all() and rebuilt[0].isfinite().all()
    want = griffin_lim_step_reference(columns, *rest)
    assert torch.equal(rebuilt.isnan().any(-1), want[1].isnan().any(-1))
    assert torch.equal(got.isnan().any(-1), want[0].isnan().any(-1))


def test_gradients_take_the_reference() -> None:
    columns, *rest = arguments_of(SHAPES["small"])
    columns.requires_grad_()
    griffin_lim_step(columns, *rest)[0].sum().backward()
    assert columns.grad is not None and columns.grad.abs().max() > 0


GOOD: dict[str, Any] = {
    "columns": torch.zeros(2, 6, 12),
    "previous": torch.zeros(2, 6, 9, dtype=torch.complex64),
    "magnitude": torch.zeros(2, 6, 9),
    "window": torch.ones(12),
    "square_sum": torch.ones(24),
    "n_fft": 16,
    "hop_length": 4,
    "momentum": MOMENTUM,
}
RAW_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "columns": ({"columns": torch.zeros(6, 12)}, r"want columns \(B,N,win_length\).*got \(6, 12\)"),
    "window": ({"window": torch.ones(11)}, r"window \(win_length,\), got \(2, 6, 12\), \(11\)"),
    "bins": ({"magnitude": torch.zeros(2, 6, 8)}, r"want previous and magnitude .*\(2, 6, 8\)"),
    "sum": ({"square_sum": torch.ones(23)}, r"want square_sum \(24\), got \(23\)"),
    "hop": ({"hop_length": 0}, "want 0 < hop_length <= win_length, got 0, 12"),
    "long hop": ({"hop_length": 2**63 - 1}, "want 0 < hop_length <= win_length, got 9223372036854775807, 12"),
    "power": ({"n_fft": 18}, "want n_fft a power of two in 4..32768, got 18"),
    "short": ({"n_fft": 64}, "reflect padding .* = 30, got 24"),
    "momentum": ({"momentum": -0.1}, "want momentum >= 0, got -0.1"),
    "no momentum": ({"momentum": math.nan}, "want momentum >= 0, got nan"),
    "real": ({"previous": torch.zeros(2, 6, 9)}, "want previous in complex64"),
    "double": ({"columns": torch.zeros(2, 6, 12).double()}, "want columns in float32"),
    "mixed": ({"magnitude": torch.zeros(2, 6, 9).double()}, "want magnitude in float32"),
}


@needs_native
@pytest.mark.parametrize(("change", "text"), RAW_ERRORS.values(), ids=RAW_ERRORS.keys())
def test_raw_error_text(change: dict[str, Any], text: str) -> None:
    with pytest.raises(RuntimeError, match=f"griffin_lim_step: .*{text}"):
        torch.ops.pavdit.griffin_lim_step(*(GOOD | change).values())


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
    with pytest.raises(kind, match=f"^griffin_lim_step: .*{message}"):
        griffin_lim_step(**(GOOD | change))
