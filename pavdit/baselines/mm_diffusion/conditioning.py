"""What a given stream does to the other one, without training for it (Ruan et al., arXiv 2212.09478, 3.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pavdit.baselines.mm_diffusion.schedule import NoiseSchedule
from pavdit.baselines.mm_diffusion.solvers import Predict, Streams, combine, ddim_step


@dataclass(frozen=True, slots=True)
class Given:
    """The clean stream that a task is given, and its own noise: at every time it is diffused by the same.

    Attributes:
        clean: one stream; empty where nothing is given.
        noise: of its shape.
    """

    clean: Streams
    noise: Streams

    def at(self, schedule: NoiseSchedule, t: float | None) -> Streams:
        """Diffused to a time; None: the data."""
        alpha, sigma = (1.0, 0.0) if t is None else schedule.levels(t)
        return combine((alpha, self.clean), (sigma, self.noise)) if self.clean else {}


def replacing(schedule: NoiseSchedule, predict: Predict, given: Given) -> Predict:
    """`predict` for the streams that are made alone, beside the given one as it is at that time.

    At every evaluation, so also at those inside a step, the given stream takes the place of what the network
    would have made of it.
    """

    def predict_made(made: Streams, t: float) -> Streams:
        noise = predict({**made, **given.at(schedule, t)}, t)
        return {name: noise[name] for name in made}

    return predict_made


def pulled_step(
    schedule: NoiseSchedule,
    predict: Predict,
    given: Given,
    x: Streams,
    s: float,
    t: float | None,
    *,
    scale: float,
    eta: float = 0.0,
    fresh: Callable[[], Streams] | None = None,
) -> dict[str, Tensor]:
    """A step of DDIM of the made stream, then down the gradient of what the step did wrong to the given one.

    ``x_t - scale alpha_s d/dx_s mean (given as stepped - given at t)^2``, the mean over a clip's values; the
    last step has no such change.    Source: arXiv 2212.09478, eq. 12, and the authors' code, which takes
    DDPM's step.

    Arguments and result as for `ddim_step`, of the made stream alone; `predict` takes both.
    """
    if t is None:
        return ddim_step(schedule, replacing(schedule, predict, given), x, s, t)
    with torch.enable_grad():
        made = {name: value.detach().requires_grad_() for name, value in x.items()}
        both = {**made, **given.at(schedule, s)}
        stepped = ddim_step(schedule, predict, both, s, t, eta=eta, fresh=fresh)
        [(name, want)] = given.at(schedule, t).items()
        wrong = (stepped[name] - want).square().flatten(1).mean(1)  # (B,)
        gradients = torch.autograd.grad(wrong.sum(), list(made.values()))  # of each clip, its own
    after = {name: stepped[name].detach() for name in made}
    return combine((1.0, after), (-scale * schedule.levels(s)[0], dict(zip(made, gradients, strict=True))))
