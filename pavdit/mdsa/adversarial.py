"""The adversarial terms of eq. 10: hinge losses of both sides (arXiv 1705.02894) and feature matching."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pavdit.mdsa.discriminator import Judgement
from pavdit.mdsa.loss import STREAM_WEIGHT, mean_over_present
from pavdit.mdsa.streams import StreamMasks

FEATURE_MATCHING_WEIGHT = 4.0

STREAM_OF = {"frame": "video", "clip": "video", "spectrogram": "audio"}
"""Which stream a discriminator judges."""


def generator_terms(
    real: Mapping[str, Judgement],
    fake: Mapping[str, Judgement],
    masks: StreamMasks | None = None,
    counts: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """What eq. 10 adds once gamma is 1: ``0.5 * (hinge + 4 * feature matching)``, both streams.

    The hinge loss of the model is minus the mean logit of its output (it does not saturate); feature matching
    is the L1 distance to the features of the real clip, summed over the layers below the logits. A stream
    with two discriminators has the sum of theirs.

    Args:
        real: judgements of the clips; no gradient goes there.
        fake: judgements of their reconstructions.
        masks, counts: as for `mdsa_loss`: samples without a stream do not count in that stream's terms.

    Returns:
        0-d tensors: ``adversarial`` (the total) and, unweighted, ``NAME_hinge`` and
        ``NAME_feature_matching`` of every discriminator.
    """
    terms: dict[str, Tensor] = {}
    total = torch.zeros((), device=next(iter(fake.values())).logits.device)
    for name, judged in fake.items():
        present, count = _present(name, masks, counts)
        hinge = mean_over_present(-_per_clip(judged.logits), present, count)
        matching = torch.zeros_like(hinge)
        for got, want in zip(judged.features, real[name].features, strict=True):
            matching = matching + mean_over_present(_per_clip((got - want.detach()).abs()), present, count)
        terms |= {f"{name}_hinge": hinge, f"{name}_feature_matching": matching}
        total = total + STREAM_WEIGHT * (hinge + FEATURE_MATCHING_WEIGHT * matching)
    return {"adversarial": total, **terms}


def discriminator_terms(
    real: Mapping[str, Judgement],
    fake: Mapping[str, Judgement],
    masks: StreamMasks | None = None,
    counts: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The discriminators' loss, ``0.5 * (relu(1 - real) + relu(1 + fake))`` of each, and their health.

    Args:
        real, fake, masks, counts: as for `generator_terms`, but gradients go to both.

    Returns:
        0-d tensors: ``loss`` (the sum) and per discriminator ``NAME_hinge_real`` and ``NAME_hinge_fake``
        (both 1 for one that says nothing, 0 for one that has won), ``NAME_real`` and ``NAME_fake`` (mean
        logits) and ``NAME_accuracy`` (share of clips that it takes for more real than their reconstructions;
        0.5 for one that says nothing, 1 for one that has won).
    """
    terms: dict[str, Tensor] = {}
    total = torch.zeros((), device=next(iter(fake.values())).logits.device)
    for name, judged in fake.items():
        present, count = _present(name, masks, counts)
        means = []
        for side, sign, logits in (("real", 1, real[name].logits), ("fake", -1, judged.logits)):
            hinge = mean_over_present(_per_clip((1 - sign * _wide(logits)).relu()), present, count)
            total = total + 0.5 * hinge
            means.append(_per_clip(logits.detach()))
            terms[f"{name}_hinge_{side}"] = hinge
            terms[f"{name}_{side}"] = mean_over_present(means[-1], present, count)
        terms[f"{name}_accuracy"] = mean_over_present((means[0] > means[1]).float(), present, count)
    return {"loss": total, **terms}


def _present(
    name: str, masks: StreamMasks | None, counts: tuple[Tensor, Tensor] | None
) -> tuple[Tensor | None, Tensor | None]:
    video, audio = counts or (None, None)
    if STREAM_OF[name] == "video":
        return None if masks is None else masks.has_video, video
    return None if masks is None else masks.has_audio, audio


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _per_clip(values: Tensor) -> Tensor:
    """Mean over all but the batch, at least float32: ``(B,)``."""
    return _wide(values).flatten(1).mean(1)
