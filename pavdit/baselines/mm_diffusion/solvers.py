"""From noise to data in few evaluations of the network: DPM-Solver and DDIM, of several streams at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from math import expm1, sqrt

import numpy as np
from torch import Tensor

from pavdit.baselines.mm_diffusion.schedule import NoiseSchedule

Streams = Mapping[str, Tensor]
"""Tensors by the name of their stream."""

Predict = Callable[[Streams, float], Streams]
"""The noise in noisy streams at a time."""

Step = Callable[[Streams, float, float | None], Streams]
"""Streams at a time, to the next one; None: the data."""


def combine(*terms: tuple[float, Streams]) -> dict[str, Tensor]:
    """The weighted sum, stream by stream."""
    (weight, first), *others = terms
    total = {name: weight * value for name, value in first.items()}
    for weight, streams in others:
        total = {name: value + weight * streams[name] for name, value in total.items()}
    return total


def data_of(
    schedule: NoiseSchedule, noisy: Streams, noise: Streams, t: float, bounded: bool = True
) -> dict[str, Tensor]:
    """The data that the predicted noise implies, kept in [-1, 1] as frames and waves are, and latents not."""
    alpha, sigma = schedule.levels(t)
    implied = combine((1 / alpha, noisy), (-sigma / alpha, noise))
    if not bounded:
        return implied
    return {name: value.clamp(-1.0, 1.0) for name, value in implied.items()}


def orders_of(evaluations: int, order: int) -> list[int]:
    """Steps that take so many evaluations together: as many of `order` as fit, then one for the rest."""
    whole, rest = divmod(evaluations, order)
    return [order] * whole + [rest] * bool(rest)


def dpm_solver_step(
    schedule: NoiseSchedule, predict: Predict, x: Streams, s: float, t: float, order: int
) -> dict[str, Tensor]:
    """One step of DPM-Solver-1, -2 or -3, which evaluates the network `order` times.

    Source: Lu et al., arXiv 2206.00927, eq. 3.7, algorithms 1 (r1 = 1/2) and 2 (r1 = 1/3, r2 = 2/3).

    Args:
        schedule: levels of the times.
        predict: the network.
        x: streams at time `s`.
        s, t: times, ``t < s``.
        order: 1, 2 or 3.

    Returns:
        Streams at time `t`.
    """
    begin, h = schedule.half_log_snr(s), schedule.half_log_snr(t) - schedule.half_log_snr(s)
    alpha_s, _ = schedule.levels(s)

    def between(r: float) -> tuple[float, float, float]:
        """The time at which a share of the step in lambda is done, and its levels."""
        u = t if r == 1.0 else schedule.time_of(begin + r * h)
        return (u, *schedule.levels(u))

    def along(r: float, *changes: tuple[float, Streams]) -> dict[str, Tensor]:
        """A share of the step with the noise of `s`, less ``sigma`` times each change."""
        _, alpha, sigma = between(r)
        change = [(-sigma * weight, streams) for weight, streams in changes]
        return combine((alpha / alpha_s, x), (-sigma * expm1(r * h), noise), *change)

    noise = predict(x, s)
    if order == 1:
        return along(1.0)
    first = 1 / 2 if order == 2 else 1 / 3
    slope = combine((1.0, predict(along(first), between(first)[0])), (-1.0, noise))
    if order == 2:
        return along(1.0, (expm1(h) / (2 * first), slope))
    second = 2 / 3
    weight = (second / first) * (expm1(second * h) / (second * h) - 1)
    slope = combine((1.0, predict(along(second, (weight, slope)), between(second)[0])), (-1.0, noise))
    return along(1.0, ((expm1(h) / h - 1) / second, slope))


def dpm_solver(
    schedule: NoiseSchedule, predict: Predict, x: Streams, evaluations: int, order: int
) -> Iterator[dict[str, Tensor]]:
    """Steps of equal length in lambda down to time 0; the last evaluation takes its noise out, too.

    Args:
        schedule: levels of the times.
        predict: the network.
        x: noise.
        evaluations: of the network, in all.
        order: of the steps, the last one perhaps lower.

    Yields:
        Streams after every step; the last ones are data.
    """
    orders = orders_of(evaluations - 1, order)
    ends = np.linspace(schedule.half_log_snr(schedule.last), schedule.half_log_snr(0.0), len(orders) + 1)
    times = [schedule.last, *(schedule.time_of(end) for end in ends[1:])]
    for (s, t), own in zip(pairwise(times), orders, strict=True):
        x = dpm_solver_step(schedule, predict, x, s, t, own)
        yield dict(x)
    yield data_of(schedule, x, predict(x, times[-1]), times[-1])


def ddim_times(schedule: NoiseSchedule, evaluations: int) -> list[float]:
    """Whole times, equally spaced from the last one to 0."""
    return np.linspace(schedule.last, 0.0, evaluations).round().tolist()


def ddim_step(
    schedule: NoiseSchedule,
    predict: Predict,
    x: Streams,
    s: float,
    t: float | None,
    *,
    eta: float = 0.0,
    fresh: Callable[[], Streams] | None = None,
    bounded: bool = True,
) -> dict[str, Tensor]:
    """One step of DDIM (Song et al., arXiv 2010.02502, eq. 12 and 16).

    Args:
        schedule: levels of the times.
        predict: the network.
        x: streams at time `s`.
        s: a time.
        t: the next; None: the data.
        eta: share of fresh noise; 1 is DDPM.
        fresh: draws noise, where `eta` is not 0.
        bounded: see `data_of`.

    Returns:
        Streams at time `t`.
    """
    data = data_of(schedule, x, predict(x, s), s, bounded)
    if t is None:
        return data
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule.levels(s), schedule.levels(t)
    rest = combine((1 / sigma_s, x), (-alpha_s / sigma_s, data))  # the noise that goes with the data
    drawn = eta * sigma_t / sigma_s * sqrt(max(0.0, 1 - (alpha_s / alpha_t) ** 2))
    terms = [(alpha_t, data), (sqrt(max(0.0, sigma_t**2 - drawn**2)), rest)]
    return combine(*terms, *([] if fresh is None else [(drawn, fresh())]))


def ddim(schedule: NoiseSchedule, step: Step, x: Streams, evaluations: int) -> Iterator[dict[str, Tensor]]:
    """Take `step` from each of `ddim_times` to the next, and from the last one to the data.

    Yields:
        Streams after every step; the last ones are data.
    """
    times = ddim_times(schedule, evaluations)
    for s, t in zip(times, [*times[1:], None], strict=True):
        x = step(x, s, t)
        yield dict(x)
