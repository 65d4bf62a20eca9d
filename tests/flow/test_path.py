"""Noise, path and times."""

import math

import pytest
import torch

from pavdit.flow.path import draw_noise, interpolate, target_velocity
from pavdit.flow.schedule import draw_times, time_grid


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_truncated_noise_is_the_truncated_normal():
    noise = draw_noise((200_000,), generators(0))[0].double()
    assert noise.abs().max() <= 1
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * density / math.erf(math.sqrt(0.5))  # of N(0, 1) truncated to [-1, 1]
    assert noise.mean().abs() < 4 * math.sqrt(variance / noise.numel())
    assert abs(noise.var().item() - variance) < 0.005
    for x in (-0.7, 0.1, 0.5):
        cdf = 0.5 + 0.5 * math.erf(x / math.sqrt(2)) / math.erf(math.sqrt(0.5))
        assert abs((noise < x).double().mean().item() - cdf) < 0.005


def test_a_seed_means_the_clip_whatever_the_batch():
    together = draw_noise((4, 6, 8, 8), generators(3, 4, 5))
    alone = draw_noise((4, 6, 8, 8), generators(4))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_the_normal_prior_leaves_the_box():
    assert draw_noise((1000,), generators(0), "normal").abs().max() > 2


def test_an_unknown_prior_is_refused():
    with pytest.raises(ValueError, match="got 'laplace'"):
        draw_noise((1,), generators(0), "laplace")


def test_the_path_runs_from_noise_to_data_at_constant_velocity():
    noise, data = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    t = torch.tensor([0.0, 1.0])
    ends = interpolate(noise, data, t)
    assert torch.equal(ends[0], noise[0])
    torch.testing.assert_close(ends[1], data[1])
    step = interpolate(noise, data, t + 0.25) - ends
    torch.testing.assert_close(step, 0.25 * target_velocity(noise, data))


def test_a_time_per_frame_is_broadcast_from_the_left():
    noise, data = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    t = torch.tensor([[0.0, 0.5, 1.0], [0.1, 0.2, 0.3]])
    torch.testing.assert_close(interpolate(noise, data, t), t[..., None].expand(2, 3, 4))


def test_logit_normal_times_prefer_the_middle():
    t = draw_times(100_000, "logit_normal", generators(0)[0])
    assert t.min() > 0 and t.max() < 1
    middle = ((t > 0.25) & (t < 0.75)).float().mean().item()
    assert abs(middle - math.erf(math.log(3) / math.sqrt(2))) < 0.01


def test_uniform_times_are_uniform():
    t = draw_times(100_000, "uniform", generators(0)[0])
    assert abs(((t > 0.25) & (t < 0.75)).float().mean().item() - 0.5) < 0.01


def test_shifted_times_mean_stronger_noise():
    plain, near_noise = (draw_times(1000, "uniform", generators(0)[0], shift) for shift in (1.0, 4.0))
    torch.testing.assert_close((1 - near_noise) / near_noise, 4.0 * (1 - plain) / plain)
    grid = time_grid(30, 4.0)
    assert (grid[0], grid[-1]) == (0.0, 1.0) and grid == sorted(grid) and grid[15] == 0.2


def test_unknown_times_are_refused():
    with pytest.raises(ValueError, match="got 'cosine'"):
        draw_times(1, "cosine")


def test_the_grid_starts_at_noise_and_ends_at_data():
    grid = time_grid(30)
    assert (len(grid), grid[0], grid[-1]) == (31, 0.0, 1.0)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_steps >= 1, got 0"):
        time_grid(0)
