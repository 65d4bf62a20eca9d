"""The latent's distribution: where it lies, how it is drawn, what it costs."""

from __future__ import annotations

import torch
from numerics import assert_equation
from torch.distributions import Normal, kl_divergence

from pavdit.latents import Planes
from pavdit.mdsa.attention import PlaneFeatures
from pavdit.mdsa.bottleneck import LOG_VARIANCE_AT_START, FromLatent, Posterior, ToLatent, draw_noise


def planes(scale: float = 1.0) -> Planes:
    shapes = ((2, 4, 3, 5), (2, 4, 6, 5), (2, 4, 6, 3))
    hw, tw, th = (scale * torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return Planes(hw, tw, th)


def test_kl_is_that_of_the_normals_summed_over_a_stream() -> None:
    posterior = Posterior(planes(), planes())
    want = torch.zeros(2, dtype=torch.float64)
    for name in ("hw", "tw", "th"):
        mean, log_variance = getattr(posterior.mean, name), getattr(posterior.log_variance, name)
        q = Normal(mean, (0.5 * log_variance).exp())
        want += kl_divergence(q, Normal(0.0, 1.0)).flatten(1).sum(1)
    assert_equation(posterior.kl(), want)


def test_mode_lies_in_the_box() -> None:
    posterior = Posterior(planes(100.0), planes())
    assert max(float(p.abs().max()) for p in (posterior.mode().hw, posterior.mode().tw)) <= 1.0
    assert torch.equal(posterior.mode().th, posterior.mean.th.tanh())


def test_sample_is_the_mode_where_there_is_no_variance() -> None:
    mean = planes()
    posterior = Posterior(mean, mean.map(lambda x: torch.full_like(x, -torch.inf)))
    assert torch.equal(posterior.sample(planes()).tw, posterior.mode().tw)


def test_sample_has_the_spread_of_sigma() -> None:
    zeros = torch.zeros(1, 1, 300, 300)
    log_variance = torch.full_like(zeros, -4.0)
    posterior = Posterior(Planes(zeros, zeros, zeros), Planes(log_variance, log_variance, log_variance))
    noise = draw_noise(1, 1, (300, 300, 300), torch.Generator().manual_seed(0))
    drawn = posterior.sample(noise)
    assert abs(float(drawn.hw.atanh().std()) - 0.1353) < 0.002  # exp(-2), 0.3 % standard error
    assert not torch.equal(drawn.hw, drawn.tw)


def test_noise_follows_the_generator_and_has_the_shapes_of_the_planes() -> None:
    first, second, other = (draw_noise(2, 4, (6, 3, 5), torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first.hw, second.hw) and not torch.equal(first.hw, other.hw)
    assert [x.shape for x in (first.hw, first.tw, first.th)] == [(2, 4, 3, 5), (2, 4, 6, 5), (2, 4, 6, 3)]


def test_log_variance_begins_constant() -> None:
    to_latent = ToLatent(8, 4)
    features = PlaneFeatures(torch.randn(2, 3, 5, 8), torch.randn(2, 6, 5, 8), torch.randn(2, 6, 3, 8))
    posterior = to_latent(features)
    assert posterior.mean.tw.shape == (2, 4, 6, 5)
    assert (posterior.log_variance.hw == LOG_VARIANCE_AT_START).all()


def test_heads_are_one_by_one_convolutions() -> None:
    to_latent, from_latent = ToLatent(8, 4).double(), FromLatent(4, 8).double()
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    head = to_latent.mean[0]
    kernel = head.weight[:, :, None, None] / 8**0.5
    want = torch.nn.functional.conv2d(to_latent.norm[0](x).movedim(-1, 1), kernel, head.bias)
    assert_equation(to_latent(PlaneFeatures(x, x, x)).mean.hw, want)
    latent = planes()
    want = torch.nn.functional.conv2d(latent.th, from_latent.th.weight[:, :, None, None], from_latent.th.bias)
    assert_equation(from_latent(latent).th.movedim(-1, 1), want)
