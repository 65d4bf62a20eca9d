"""The sampler: right end point, inside the box, given frames untouched, second order where it says so."""

import math

import pytest
import torch

from pavdit.flow.path import draw_noise
from pavdit.flow.sampler import sample
from pavdit.ops import bounce_sign, fold


def noise(*seeds, shape=(4, 6, 8, 8)):
    return draw_noise(shape, [torch.Generator().manual_seed(seed) for seed in seeds])


def towards(data):
    """The exact velocity of a data set that is one point."""
    return lambda latent, t, guided: (data - latent) / (1 - t)


@pytest.mark.parametrize("num_steps", [1, 7, 30])
def test_euler_reaches_a_single_data_point(num_steps):
    data = 1.8 * torch.rand(2, 4, 6, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.9
    got = sample(towards(data), noise(0, 1), num_steps=num_steps)
    torch.testing.assert_close(got, data, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0, 15.0])
def test_samples_stay_in_the_box_whatever_the_guidance(method, guidance_scale):
    generator = torch.Generator().manual_seed(0)

    def wild(latent, t, guided):
        return 5 * torch.randn((len(latent) * (2 if guided else 1), *latent.shape[1:]), generator=generator)

    got = sample(wild, noise(0, 1), num_steps=30, guidance_scale=guidance_scale, method=method)
    assert got.abs().max() <= 1
    assert (got.abs() > 0.999).float().mean() < 0.05  # folded, not piled up at the border as clamping would


def test_without_reflection_nothing_is_folded():
    got = sample(lambda latent, t, guided: torch.full_like(latent, 3.0), noise(0), reflect=False)
    torch.testing.assert_close(got, noise(0) + 3)


def test_guidance_mixes_both_halves():
    def velocity(latent, t, guided):
        assert guided
        return torch.cat([torch.full_like(latent, 0.2), torch.full_like(latent, 0.1)])

    got = sample(velocity, torch.zeros(2, 4, 6, 8, 8), guidance_scale=3.0, num_steps=10)
    torch.testing.assert_close(got, torch.full_like(got, 0.4))


def test_guidance_only_inside_its_interval():
    calls = []

    def velocity(latent, t, guided):
        calls.append((t, guided))
        return torch.zeros((len(latent) * (2 if guided else 1), *latent.shape[1:]))

    sample(velocity, noise(0), guidance_scale=4.0, guidance_interval=(0.25, 0.5), num_steps=10)
    assert [round(t, 1) for t, guided in calls if guided] == [0.3, 0.4, 0.5]
    assert len(calls) == 10


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_given_frames_are_neither_moved_nor_folded(method):
    start = noise(0)
    start[:, :, :3] = 1.5  # outside the box on purpose: a fold would show
    target = torch.tensor([False, False, False, True, True, True])
    got = sample(
        lambda latent, t, guided: torch.ones_like(latent), start, target=target, method=method, num_steps=4
    )
    assert torch.equal(got[:, :, :3], start[:, :, :3])
    assert not torch.equal(got[:, :, 3:], start[:, :, 3:])


def test_the_start_is_not_changed():
    start = noise(0)
    before = start.clone()
    sample(lambda latent, t, guided: torch.ones_like(latent), start, num_steps=3)
    assert torch.equal(start, before)


def test_heun_is_second_order_and_euler_first():
    def velocity(latent, t, guided):  # dz/dt = cos(3t) z / 2, never near the border
        return 0.5 * math.cos(3 * t) * latent

    start = 0.3 * noise(0).double().float()
    exact = start.double() * math.exp(math.sin(3.0) / 6)

    def error(method, steps):
        return (sample(velocity, start, num_steps=steps, method=method).double() - exact).abs().max().item()

    assert 1.7 < error("euler", 8) / error("euler", 16) < 2.4
    assert error("heun", 4) / error("heun", 8) > 3.2


def brute_force(z):
    """Walk from 0 to z in the box, one bounce at a time."""
    position, direction, left = 0.0, math.copysign(1.0, z), abs(z)
    bounces = 0
    while left > 0:
        room = 1 - position * direction
        if left <= room:
            return position + direction * left, bounces
        position, left, direction = direction, left - room, -direction
        bounces += 1
    return position, bounces


def test_fold_and_sign_are_those_of_a_bouncing_walk():
    z = torch.linspace(-7, 7, 5601, dtype=torch.float64)
    z = z[((z + 1) % 2).abs() > 1e-9]  # a point exactly on the border has not bounced yet
    walked = [brute_force(x) for x in z.tolist()]
    torch.testing.assert_close(
        fold(z), torch.tensor([p for p, _ in walked], dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert bounce_sign(z).tolist() == [1 - 2 * (n % 2) for _, n in walked]


def test_heun_turns_the_velocity_of_a_bounced_stage():
    # 0.8 + 0.5 bounces to 0.7; seen from there a wall-ward 0.5 moves back, so the mean velocity is 0.
    got = sample(
        lambda z, t, g: torch.full_like(z, 0.5), torch.full((1, 1, 2, 2, 2), 0.8), num_steps=1, method="heun"
    )
    torch.testing.assert_close(got, torch.full_like(got, 0.8))


def test_the_callback_sees_every_step_and_can_stop():
    seen = []

    def callback(step, num_steps, latent):
        seen.append((step, num_steps, latent.shape))
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(lambda latent, t, guided: latent, noise(0), num_steps=5, callback=callback)
    assert [step for step, _, _ in seen] == [1, 2, 3]


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="got 'rk4'"):
        sample(lambda latent, t, guided: latent, noise(0), method="rk4")


def test_noise_of_another_dtype_is_refused():
    with pytest.raises(ValueError, match="want float32 noise"):
        sample(lambda latent, t, guided: latent, noise(0).double())
