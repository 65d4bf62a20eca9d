"""The first stage's objective against its equation."""

from __future__ import annotations

import pytest
import torch
from numerics import assert_equation
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from pavdit.config import StreamDropoutConfig
from pavdit.latents import Planes
from pavdit.mdsa import Posterior, Reconstruction, draw_frames, draw_stream_masks, mdsa_loss
from pavdit.mdsa.loss import gradient_l1


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def batch(size: int = 3) -> tuple[Reconstruction, Tensor, Tensor]:
    torch.manual_seed(0)
    planes = Planes(randn(size, 4, 2, 2), randn(size, 4, 4, 2), randn(size, 4, 4, 2))
    posterior = Posterior(planes, planes)
    output = Reconstruction(randn(size, 3, 4, 8, 12), randn(size, 1, 4, 8, 6), posterior, posterior)
    return output, randn(size, 3, 4, 8, 12), randn(size, 1, 4, 8, 6)


def test_total_is_eq_10_with_gamma_0() -> None:
    output, video, audio = batch()
    frames = torch.tensor([0, 3, 1])
    terms = mdsa_loss(output, video, audio, frames)
    want = torch.zeros((), dtype=torch.float64)
    for name, got, x in (("video", output.video, video), ("audio", output.audio, audio)):
        edges = torch.stack(
            [
                gradient_l1(got[i : i + 1, :, frame], x[i : i + 1, :, frame])[0]
                for i, frame in enumerate(frames.tolist())
            ]
        ).mean()
        assert_equation(terms[f"{name}_l1"], (got - x).abs().mean())
        assert_equation(terms[f"{name}_perceptual"], edges)
        want = want + 0.5 * (4 * (got - x).abs().mean() + 4 * edges)
    assert_equation(terms["loss"], want)
    assert set(terms) == {"loss", "video_l1", "video_perceptual", "audio_l1", "audio_perceptual"}


def test_kl_enters_in_the_second_stage() -> None:
    output, video, audio = batch()
    frames = torch.zeros(3, dtype=torch.int64)
    without = mdsa_loss(output, video, audio, frames)
    terms = mdsa_loss(output, video, audio, frames, kl_target="latent")
    kl = output.video_posterior.kl().mean()
    assert_equation(terms["video_kl"], kl)
    assert_equation(terms["loss"], without["loss"] + 2 * 0.5 * 6e-6 * kl)


def test_kl_of_the_output_is_that_of_the_softmaxes() -> None:
    output, video, audio = batch()
    terms = mdsa_loss(output, video, audio, torch.zeros(3, dtype=torch.int64), kl_target="output")
    for name, got, want in (("video", output.video, video), ("audio", output.audio, audio)):
        q, p = (Categorical(logits=x.flatten(1)) for x in (got, want))
        assert_equation(terms[f"{name}_kl"], kl_divergence(q, p).mean())


def test_the_perceptual_distance_can_be_another() -> None:
    output, video, audio = batch()
    frames = torch.tensor([0, 3, 1])
    terms = mdsa_loss(
        output, video, audio, frames, perceptual=lambda a, b: (a - b).square().flatten(1).sum(1)
    )
    want = torch.stack([(output.video - video)[i, :, frame].square().sum() for i, frame in enumerate(frames)])
    assert_equation(terms["video_perceptual"], want.mean())


def test_missing_stream_counts_neither_in_value_nor_in_gradient() -> None:
    output, video, audio = batch(2)
    masks = draw_stream_masks(2, StreamDropoutConfig(video_alone=1, audio_alone=0, crossed=0))
    audio_out = (output.audio * torch.nan).requires_grad_()
    video_out = output.video.clone().requires_grad_()
    broken = output._replace(audio=audio_out, video=video_out)
    terms = mdsa_loss(broken, video, audio, torch.zeros(2, dtype=torch.int64), masks)
    terms["loss"].backward()
    assert terms["audio_l1"] == 0 and terms["loss"] > 0
    assert video_out.grad.isfinite().all()


def test_mean_is_over_the_clips_that_have_the_stream() -> None:
    output, video, audio = batch(2)
    config = StreamDropoutConfig(video_alone=0.5, audio_alone=0, crossed=0)
    seeds = (draw_stream_masks(2, config, torch.Generator().manual_seed(seed)) for seed in range(50))
    masks = next(m for m in seeds if m.has_audio.tolist() == [False, True])
    terms = mdsa_loss(output, video, audio, torch.zeros(2, dtype=torch.int64), masks)
    assert_equation(terms["audio_l1"], (output.audio - audio)[1].abs().mean())


def test_gradient_l1_is_the_mean_over_three_scales() -> None:
    a, b = randn(1, 1, 4, 8), randn(1, 1, 4, 8)
    want = torch.zeros((), dtype=torch.float64)
    for scale in (1, 2):  # at scale 4 one row is left, which has no vertical gradient
        d = (a - b)[0, 0].unflatten(0, (-1, scale)).mean(1).unflatten(1, (-1, scale)).mean(2)
        rows, columns = d.shape
        down = [abs(d[i + 1, j] - d[i, j]) for i in range(rows - 1) for j in range(columns)]
        across = [abs(d[i, j + 1] - d[i, j]) for i in range(rows) for j in range(columns - 1)]
        want = want + torch.stack(down).mean() + torch.stack(across).mean()
    assert_equation(gradient_l1(a, b), want[None] / 2)


@pytest.mark.parametrize("offset", [0.0, 0.5], ids=["same", "brighter"])
def test_gradient_l1_looks_at_edges_only(offset: float) -> None:
    a = torch.arange(64.0).view(1, 1, 8, 8)
    assert gradient_l1(a + offset, a).item() == 0


def test_frames_are_drawn_from_the_whole_clip() -> None:
    frames = draw_frames(200, 4, torch.Generator().manual_seed(0))
    assert frames.shape == (200,) and set(frames.tolist()) == {0, 1, 2, 3}


def test_l1_beta_makes_small_errors_quadratic_and_leaves_large_ones_linear():
    output, video, audio = batch()
    output = output._replace(video=video + 0.1, audio=audio + 1.0)
    frames = torch.zeros(3, dtype=torch.long)
    exact = mdsa_loss(output, video, audio, frames)
    smooth = mdsa_loss(output, video, audio, frames, l1_beta=0.4)
    assert exact["video_l1"].item() == pytest.approx(0.1)
    assert exact["audio_l1"].item() == pytest.approx(1.0)
    assert smooth["video_l1"].item() == pytest.approx(0.5 * 0.1**2 / 0.4)
    assert smooth["audio_l1"].item() == pytest.approx(1.0 - 0.5 * 0.4)
