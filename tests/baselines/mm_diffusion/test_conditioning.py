"""A given stream: replacement and gradient guidance, number by number; a seed is a clip."""

from __future__ import annotations

import pytest
import torch
from mm_diffusion_nano import SPEC, UNET, small_unet

from pavdit.baselines.mm_diffusion.conditioning import Given, pulled_step, replacing
from pavdit.baselines.mm_diffusion.config import (
    DiffusionConfig,
    MMDiffusionConfig,
    SamplingConfig,
    UNetConfig,
)
from pavdit.baselines.mm_diffusion.sampler import Sampler
from pavdit.baselines.mm_diffusion.schedule import NoiseSchedule
from pavdit.baselines.mm_diffusion.solvers import dpm_solver_step


def test_replacement_shows_the_network_the_given_stream_as_noisy_as_the_made_one():
    schedule, seen = NoiseSchedule(DiffusionConfig()), []
    clean, noise = {"video": torch.tensor([0.5])}, {"video": torch.tensor([2.0])}

    def predict(both, t):
        seen.append((t, both["video"].item(), both["audio"].item()))
        return {name: 0.1 * value for name, value in both.items()}

    made = {"audio": torch.tensor([1.0])}
    out = dpm_solver_step(schedule, replacing(schedule, predict, Given(clean, noise)), made, 900.0, 700.0, 3)
    assert out.keys() == {"audio"} and len(seen) == 3 and seen[0][2] == 1.0
    for t, video, _ in seen:
        alpha, sigma = schedule.levels(t)
        assert video == pytest.approx(alpha * 0.5 + sigma * 2.0)


def test_a_pulled_step_goes_down_the_error_of_the_given_stream():
    schedule, s, t, scale = NoiseSchedule(DiffusionConfig()), 200.0, 150.0, 3.0
    clean, noise = torch.tensor([[0.3, -0.2]]).double(), torch.tensor([[0.5, 1.0]]).double()
    (a_s, g_s), (a_t, g_t) = schedule.levels(s), schedule.levels(t)

    def predict(both, _):
        return {"video": 0.1 * both["video"] + 0.2 * both["audio"], "audio": 0.3 * both["audio"]}

    def error(audio):  # of the video, as a plain formula
        total = 0.0
        for k in range(2):
            v = a_s * clean[0, k].item() + g_s * noise[0, k].item()
            e = 0.1 * v + 0.2 * audio[k]
            data = (v - g_s * e) / a_s
            assert abs(data) < 1
            total += (a_t * data + g_t * e - a_t * clean[0, k].item() - g_t * noise[0, k].item()) ** 2
        return total / 2

    x = [0.7, -0.4]
    given, eps = Given({"video": clean}, {"video": noise}), 1e-6
    made = {"audio": torch.tensor([x]).double()}
    got = pulled_step(schedule, predict, given, made, s, t, scale=scale)["audio"]
    for k in range(2):
        plain = a_t * (x[k] - g_s * 0.3 * x[k]) / a_s + g_t * 0.3 * x[k]
        up, down = ([v + sign * eps * (i == k) for i, v in enumerate(x)] for sign in (1, -1))
        gradient = (error(up) - error(down)) / (2 * eps)
        assert got[0, k].item() == pytest.approx(plain - scale * a_s * gradient, rel=1e-5)
        assert abs(scale * a_s * gradient) > 1e-3


def test_a_clip_is_its_seed_whatever_the_batch_and_however_it_is_sampled():
    config = MMDiffusionConfig(clip=SPEC, unet=UNetConfig(**UNET))
    sampler = Sampler(config, small_unet(), torch.device("cpu"))
    given = {"video": torch.rand(1, 3, 4, 8, 8) * 2 - 1}
    for way in (
        {"num_steps": 5},
        {"method": "ddim", "num_steps": 3, "eta": 1.0},
        {"method": "ddim", "num_steps": 3, "condition": "gradient"},
    ):
        for clean in (None, given):
            both = sampler.make([4, 9], SamplingConfig(**way), clean)
            alone = sampler.make([9], SamplingConfig(**way), clean)
            assert both.keys() == alone.keys() == ({"audio"} if clean else {"video", "audio"})
            torch.testing.assert_close(both["audio"][1:], alone["audio"], atol=1e-4, rtol=1e-3)
            assert both["audio"].abs().max() <= 1 and not torch.equal(both["audio"][0], both["audio"][1])
