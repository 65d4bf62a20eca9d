"""The device's share: clips through the autoencoder, and made for captions, pictures and sounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pavdit.audio.mel import mel_images
from pavdit.batching import in_batches, requests_for
from pavdit.clip import Clip
from pavdit.metrics.signal import psnr
from pavdit.options import Choices, SamplingOptions
from pavdit.pipeline import Pipeline
from pavdit.synthesis import Synthesis

BATCH = {"cuda": 50, "cpu": 4}
"""Clips at a time, by the type of the device."""


def reconstruct(pipe: Pipeline, clips: Sequence[Clip]) -> tuple[list[Clip], dict[str, float]]:
    """Both streams through their joint latents and back.

    Returns:
        The clips again, sound inverted from its mel images. PSNR of frames and mel images in dB, mean over
        clips, and that of the mean of these clips (`pavdit.train.reconstruction`; frames as they are
        delivered, in whole numbers).
    """
    codec, spec = pipe.codec, pipe.config.clip
    size = BATCH[codec.device.type]
    again: list[Clip] = []
    true: dict[str, list[Tensor]] = {"video": [], "mel": []}
    values: dict[str, list[Tensor]] = {}
    for group in (clips[i : i + size] for i in range(0, len(clips), size)):
        frames, images = codec.to_frames(*codec.encode(group, "video", "audio"))
        assert frames is not None and images is not None  # noqa: S101 - both streams are decoded
        waves = torch.stack([clip.wave for clip in group]).to(codec.device)
        true["video"].append(torch.stack([clip.frames for clip in group]))
        true["mel"].append(mel_images(waves, spec, pipe.config.mel).cpu())
        for name, got, peak in (("video", frames.cpu(), 255.0), ("mel", images.cpu().clamp(-1, 1), 2.0)):
            values.setdefault(f"{name}_psnr_db", []).append(psnr(got, true[name][-1], peak))
        again += [
            Clip(f, w, spec.fps, spec.sample_rate)
            for f, w in zip(frames.cpu(), codec.to_waves(images).cpu(), strict=True)
        ]
    for name, peak in (("video", 255.0), ("mel", 2.0)):
        mean = sum(part.float().sum(0, keepdim=True) for part in true[name]) / len(clips)
        values[f"mean_clip_{name}_psnr_db"] = [psnr(mean.expand_as(x), x, peak) for x in true[name]]
    return again, {name: torch.cat(parts).mean().item() for name, parts in values.items()}


def generate(
    pipe: Pipeline,
    choices: Choices,
    task: str,
    prompts: Sequence[str] | None,
    seed: int,
    given: Sequence[Clip] = (),
) -> list[Clip]:
    """One clip for every prompt, or for every given clip, of seeds `seed`, `seed` + 1, …

    Args:
        pipe: with a generator.
        choices: how they are made, where it is not as configured.
        task: t2av, v2a or a2v.
        prompts: captions or classes; None: no condition.
        seed: of the first.
        given: clips of which v2a and a2v take a stream, one each.
    """
    generator, networks, config = pipe.generator, pipe.networks, pipe.config
    assert generator is not None and networks is not None  # noqa: S101 - the caller looked
    synthesis = Synthesis(config, generator, networks, pipe.codec, pipe.layout, pipe.graphs, about={})
    options = SamplingOptions.of(config.flow, task, choices)
    count = 1 if prompts is not None else len(given)
    requests = requests_for(prompts, count, seed, generator.text, config.stdit.max_text_length)
    made = in_batches(
        requests,
        BATCH[pipe.runtime.device.type],
        pipe.runtime.device,
        lambda batch: synthesis.make(batch, options, [given[r.index] for r in batch] if given else []),
    )
    return [clip for _, clip in sorted(((r.index, made.clip) for r, made in made), key=lambda pair: pair[0])]
