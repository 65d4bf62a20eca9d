"""The adversarial terms against eq. 10, and a missing stream in none of them."""

from __future__ import annotations

import torch
from numerics import assert_equation

from pavdit.mdsa import StreamMasks, discriminator_terms, generator_terms
from pavdit.mdsa.discriminator import Judgement

NAMES = {"frame": "video", "clip": "video", "spectrogram": "audio"}


def judgements(seed: int) -> dict[str, Judgement]:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {name: Judgement(randn(2, 1, 3, 3), (randn(2, 4, 5, 5), randn(2, 8, 3, 3))) for name in NAMES}


def masks(has_video: list[bool], has_audio: list[bool]) -> StreamMasks:
    both = torch.ones(2, dtype=torch.bool)
    return StreamMasks(torch.tensor(has_video), torch.tensor(has_audio), both, both, both, both)


def test_the_model_s_side_is_hinge_and_four_times_feature_matching() -> None:
    real, fake = judgements(0), judgements(1)
    terms = generator_terms(real, fake)
    want = torch.zeros((), dtype=torch.float64)
    for name in NAMES:
        hinge = -fake[name].logits.mean()
        matching = sum(
            (a - b).abs().mean() for a, b in zip(fake[name].features, real[name].features, strict=True)
        )
        assert_equation(terms[f"{name}_hinge"], hinge)
        assert_equation(terms[f"{name}_feature_matching"], matching)
        want = want + 0.5 * (hinge + 4 * matching)
    assert_equation(terms["adversarial"].double(), want)


def test_the_discriminators_side_is_the_hinge_loss() -> None:
    real, fake = judgements(0), judgements(1)
    terms = discriminator_terms(real, fake)
    want = torch.zeros((), dtype=torch.float64)
    for name in NAMES:
        on_real, on_fake = (1 - real[name].logits).clamp(min=0), (1 + fake[name].logits).clamp(min=0)
        assert_equation(terms[f"{name}_hinge_real"], on_real.mean())
        assert_equation(terms[f"{name}_hinge_fake"], on_fake.mean())
        assert_equation(terms[f"{name}_real"], real[name].logits.mean())
        told = real[name].logits.flatten(1).mean(1) > fake[name].logits.flatten(1).mean(1)
        assert terms[f"{name}_accuracy"].item() == sum(told.tolist()) / 2
        want = want + 0.5 * (on_real.mean() + on_fake.mean())
    assert_equation(terms["loss"].double(), want)


def test_no_gradient_reaches_the_real_features_of_the_model_s_side() -> None:
    real = {name: j._replace(features=(j.features[0].requires_grad_(),)) for name, j in judgements(0).items()}
    fake = {name: j._replace(features=(j.features[0].requires_grad_(),)) for name, j in judgements(1).items()}
    generator_terms(real, fake)["adversarial"].backward()
    assert all(j.features[0].grad is None for j in real.values())
    assert all(j.features[0].grad.any() for j in fake.values())


def test_a_missing_stream_counts_in_no_term_and_no_gradient() -> None:
    alone = masks([True, False], [False, True])
    whole = {"real": judgements(0), "fake": judgements(1)}
    broken = {"real": judgements(0), "fake": judgements(1)}
    for side in broken.values():
        for name, stream in NAMES.items():
            missing = 1 if stream == "video" else 0
            for x in (side[name].logits, *side[name].features):
                x[missing] = torch.nan
    for one in (generator_terms, discriminator_terms):
        want, got = one(whole["real"], whole["fake"], alone), one(broken["real"], broken["fake"], alone)
        for name in want:
            assert_equation(got[name], want[name], what=name)
    logits = broken["fake"]["clip"].logits.requires_grad_()
    discriminator_terms(broken["real"], broken["fake"], alone)["loss"].backward()
    assert logits.grad[0].any() and not logits.grad[1].any()
    only_present = [whole["fake"][name].logits[0 if s == "video" else 1].mean() for name, s in NAMES.items()]
    terms = generator_terms(whole["real"], whole["fake"], alone)
    for name, want_logit in zip(NAMES, only_present, strict=True):
        assert_equation(terms[f"{name}_hinge"], -want_logit)
