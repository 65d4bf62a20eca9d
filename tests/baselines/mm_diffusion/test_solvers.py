"""The noise, and the steps from it to data, against the papers' equations number by number."""

from __future__ import annotations

import math

import pytest
import torch

from pavdit.baselines.mm_diffusion.config import DiffusionConfig
from pavdit.baselines.mm_diffusion.schedule import NoiseSchedule
from pavdit.baselines.mm_diffusion.solvers import ddim, ddim_step, dpm_solver, dpm_solver_step, orders_of


def test_the_schedule_is_ddpms():
    schedule = NoiseSchedule(DiffusionConfig())
    product = 1.0
    for k in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * k / 999)
        if k in (0, 500, 999):
            assert schedule.levels(k) == pytest.approx((product**0.5, (1 - product) ** 0.5), rel=1e-9)
    assert schedule.time_of(schedule.half_log_snr(123.25)) == pytest.approx(123.25)
    data, noise = torch.ones(2, 3), torch.full((2, 3), 2.0)
    alpha, sigma = schedule.levels(500)
    noisy = schedule.diffuse(data, noise, torch.tensor([500, 0]))
    assert noisy[0, 0].item() == pytest.approx(alpha + 2 * sigma)


class Gaussian:
    """The exact noise of data that is N(0, `spread`^2): its ODE keeps ``x / sqrt(alpha^2 s^2 + sigma^2)``."""

    def __init__(self, schedule: NoiseSchedule, spread: float = 0.2) -> None:
        self.schedule, self.spread, self.times = schedule, spread, []

    def scale(self, t: float) -> float:
        alpha, sigma = self.schedule.levels(t)
        return (alpha * self.spread) ** 2 + sigma**2

    def __call__(self, x, t):
        self.times.append(t)
        return {name: self.schedule.levels(t)[1] / self.scale(t) * value for name, value in x.items()}


def equations(schedule, predict, x, s, t, order):
    """Algorithms 1 and 2 of arXiv 2206.00927 and its eq. 3.7, number by number."""
    lam = schedule.half_log_snr
    h = lam(t) - lam(s)
    alpha_s, e = schedule.levels(s)[0], predict(x, s)
    alpha_t, sigma_t = schedule.levels(t)
    if order == 1:
        return alpha_t / alpha_s * x - sigma_t * (math.exp(h) - 1) * e
    r1, r2 = (0.5, None) if order == 2 else (1 / 3, 2 / 3)
    s1 = schedule.time_of(lam(s) + r1 * h)
    a1, g1 = schedule.levels(s1)
    u1 = a1 / alpha_s * x - g1 * (math.exp(r1 * h) - 1) * e
    d1 = predict(u1, s1) - e
    if order == 2:
        return alpha_t / alpha_s * x - sigma_t * (math.exp(h) - 1) * (e + d1 / (2 * r1))
    s2 = schedule.time_of(lam(s) + r2 * h)
    a2, g2 = schedule.levels(s2)
    u2 = a2 / alpha_s * x - g2 * (math.exp(r2 * h) - 1) * e
    u2 = u2 - g2 * r2 / r1 * ((math.exp(r2 * h) - 1) / (r2 * h) - 1) * d1
    d2 = predict(u2, s2) - e
    change = sigma_t / r2 * ((math.exp(h) - 1) / h - 1) * d2
    return alpha_t / alpha_s * x - sigma_t * (math.exp(h) - 1) * e - change


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_step_of_dpm_solver_is_its_algorithm(order):
    schedule = NoiseSchedule(DiffusionConfig())

    def predict(x, t):
        return math.sin(3 * x) + t / 1000

    x = {name: torch.tensor([value], dtype=torch.float64) for name, value in (("a", 0.3), ("b", -1.2))}
    got = dpm_solver_step(
        schedule, lambda x, t: {n: torch.sin(3 * v) + t / 1000 for n, v in x.items()}, x, 700.0, 431.0, order
    )
    for name, value in x.items():
        assert got[name].item() == pytest.approx(
            equations(schedule, predict, value.item(), 700.0, 431.0, order)
        )


def test_dpm_solver_converges_with_its_order_and_counts_its_evaluations():
    schedule = NoiseSchedule(DiffusionConfig())
    x = {"a": torch.tensor([1.0], dtype=torch.float64)}
    errors = {}
    for order in (1, 3):
        predict = Gaussian(schedule)
        *_, before, last = dpm_solver(schedule, predict, x, 20, order)
        exact = (predict.scale(0.0) / predict.scale(999.0)) ** 0.5
        errors[order] = abs(before["a"].item() - exact)
        assert len(predict.times) == 20 and predict.times[-1] == 0.0
        alpha, sigma = schedule.levels(0.0)
        assert last["a"].item() == pytest.approx(
            (before["a"].item() - sigma * (sigma / predict.scale(0.0)) * before["a"].item()) / alpha
        )
    assert errors[3] < errors[1] / 20 and errors[3] < 1e-3
    assert orders_of(19, 3) == [3] * 6 + [1] and orders_of(18, 3) == [3] * 6 and orders_of(0, 3) == []


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_step_of_ddim_is_its_equation(eta):
    schedule = NoiseSchedule(DiffusionConfig())
    x, e, z, s, t = 0.4, 0.3, -0.9, 600.0, 450.0
    (a_s, g_s), (a_t, g_t) = schedule.levels(s), schedule.levels(t)
    data = (x - g_s * e) / a_s
    drawn = eta * math.sqrt(g_t**2 / g_s**2) * math.sqrt(1 - a_s**2 / a_t**2)
    want = a_t * data + math.sqrt(1 - a_t**2 - drawn**2) * e + drawn * z
    one = {"a": torch.tensor([x], dtype=torch.float64)}
    fresh = (lambda: {"a": torch.tensor([z], dtype=torch.float64)}) if eta else None
    got = ddim_step(schedule, lambda x, t: {"a": torch.tensor([e]).double()}, one, s, t, eta=eta, fresh=fresh)
    assert abs(data) < 1 and got["a"].item() == pytest.approx(want)
    times = []
    list(ddim(schedule, lambda x, s, t: times.append((s, t)) or x, one, 4))
    assert times == [(999.0, 666.0), (666.0, 333.0), (333.0, 0.0), (0.0, None)]
