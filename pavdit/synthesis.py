"""One batch of clips: noise and what is given → P, P → clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pavdit.batching import Request
from pavdit.clip import Clip
from pavdit.codec import Codec
from pavdit.config import ModelConfig
from pavdit.flow.graph import Graphs
from pavdit.flow.path import draw_noise
from pavdit.flow.sampler import Callback
from pavdit.generated import Generated
from pavdit.latents import PlaneLayout
from pavdit.options import SamplingOptions
from pavdit.provenance import provenance_of
from pavdit.sampling import BoundVelocity, Captions, encode_captions, place_given, sample_batch
from pavdit.stdit.fast import Networks
from pavdit.tasks import GIVEN, with_given
from pavdit.train.models import Generator
from pavdit.train.trainer import NonFiniteError


@dataclass(frozen=True, slots=True)
class Synthesis:
    """A generator and an autoencoder that make clips.

    Attributes:
        config: sizes.
        generator: STDiT and its text encoder, where they run.
        networks: the forms of STDiT that sample.
        codec: the autoencoder, on the same device.
        layout: of P.
        graphs: where captured steps live; None: nothing is captured.
        about: weights and runtime, for provenance.
    """

    config: ModelConfig
    generator: Generator
    networks: Networks
    codec: Codec
    layout: PlaneLayout
    graphs: Graphs | None
    about: Mapping[str, str]

    def provenance(self, request: Request, options: SamplingOptions, given: Clip | None) -> dict[str, str]:
        """What a clip's file says of its making, but for its place in a batch."""
        return provenance_of(self.about, request, options, given) | {
            "tier": self.networks.for_text(request.bucket or self.config.text.tokens_per_class).form
        }

    @torch.no_grad()
    def make(
        self,
        batch: list[Request],
        options: SamplingOptions,
        given: Sequence[Clip],
        callback: Callback | None = None,
    ) -> list[Generated]:
        """Noise to clips.

        In a pipeline of two steps the second is given the planes that the first sampled, as they are: nothing
        is decoded and encoded again. Its own noise is drawn after the first's. The first stream is delivered
        as the first step makes it, decoded alone.

        Args:
            batch: the clips, of one text bucket.
            options: how they are made.
            given: the clips that the task takes a stream of, one for all or one for each; else none.
            callback: as in `pavdit.flow.sampler.sample`; steps are counted over the whole pipeline.

        Raises:
            NonFiniteError: the weights give no number.
        """
        random = [torch.Generator().manual_seed(request.seed) for request in batch]
        prompts = [request.prompt for request in batch if request.prompt is not None]
        captions = encode_captions(
            self.generator.text,
            prompts or None,
            len(batch),
            self.config,
            self.codec.device,
            self.codec.dtype,
        )
        sources = [*given] if len(given) == len(batch) else [given[0] if given else None] * len(batch)
        latent = self._latent_of(given, options.task)
        clips: list[Clip] = []
        steps = options.in_steps()
        for place, step in enumerate(steps):
            tell = counted(callback, place * step.num_steps, len(steps) * step.num_steps)
            latent = self._sample(latent, captions, random, step, tell)
            made = zip(self._decode(latent, step.task), clips or sources, batch, strict=True)
            clips = [with_given(clip, before, step.task, r.prompt) for clip, before, r in made]
        assert latent is not None  # noqa: S101 - there is at least one step
        return [
            Generated(
                clip,
                row,
                self.provenance(request, options, source) | {"batch": f"{place}/{len(batch)}"},
            )
            for place, (clip, row, request, source) in enumerate(
                zip(clips, latent.cpu(), batch, sources, strict=True), 1
            )
        ]

    def _sample(
        self,
        given: Tensor | None,
        captions: Captions,
        random: Sequence[torch.Generator],
        options: SamplingOptions,
        callback: Callback | None,
    ) -> Tensor:
        """P of one task, for which the frames that it is given are taken of P `given`."""
        noise = draw_noise(self._latent_shape(), random, self.config.flow.prior)  # (B, C, G, rows, columns)
        latent, target = place_given(noise.to(self.codec.device), given, options.task, self.layout)
        velocity = BoundVelocity(
            self.networks.for_text(captions.tokens.shape[1]),
            captions,
            options if captions.known else options.unguided(),
            fps=float(self.config.clip.fps),
        )
        latent = sample_batch(velocity, latent, target=target, graphs=self.graphs, callback=callback)
        require_finite(latent, self.generator)
        return latent

    def _decode(self, latent: Tensor, task: str) -> list[Clip]:
        """P to clips; what a task neither makes nor is given is black or silent."""
        video, audio = self.layout.unstack(latent)
        return self.codec.decode(None if task == "t2a" else video, None if task == "t2v" else audio)

    def _latent_shape(self) -> tuple[int, int, int, int]:
        layout = self.layout
        return self.config.mdsa.latent_channels, layout.num_frames, layout.rows, layout.columns

    def _latent_of(self, given: Sequence[Clip], task: str) -> Tensor | None:
        """P that holds the stream which a task is given, encoded without the other one."""
        if not given:
            return None
        [planes] = self.codec.encode(given, GIVEN[task])
        return self.layout.stack(planes, planes)  # only the given stream's frames are taken


def counted(callback: Callback | None, before: int, total: int) -> Callback | None:
    """A callback that counts the steps of one task among all of a pipeline."""
    if callback is None:
        return None
    return lambda step, _, latent: callback(before + step, total, latent)


def require_finite(latent: Tensor, generator: Generator) -> None:
    """The one place where sampling waits for the device, after the last step.

    Raises:
        NonFiniteError: a value is none; names the weight that is none, if there is one.
    """
    if bool(latent.isfinite().all()):
        return
    bad = (name for name, p in generator.named_parameters() if not bool(p.isfinite().all()))
    where = next(bad, None)
    raise NonFiniteError(
        "sampling: want finite latents, got NaN or infinity"
        + (f"; so has the weight {where}" if where else "; the weights are finite")
    )
