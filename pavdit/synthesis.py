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
from pavdit.sampling import BoundVelocity, encode_captions, place_given, sample_batch
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

        Args:
            batch: the clips, of one text bucket.
            options: how they are made.
            given: the clips that the task takes a stream of, one for all or one for each; else none.
            callback: as in `pavdit.flow.sampler.sample`.

        Raises:
            NonFiniteError: the weights give no number.
        """
        random = [torch.Generator().manual_seed(request.seed) for request in batch]
        noise = draw_noise(self._latent_shape(), random, self.config.flow.prior)  # (B, C, G, rows, columns)
        latent, target = place_given(
            noise.to(self.codec.device), self._latent_of(given, options.task), options.task, self.layout
        )
        prompts = [request.prompt for request in batch if request.prompt is not None]
        captions = encode_captions(
            self.generator.text,
            prompts or None,
            len(batch),
            self.config,
            self.codec.device,
            self.codec.dtype,
        )
        stdit = self.networks.for_text(captions.tokens.shape[1])
        velocity = BoundVelocity(
            stdit,
            captions,
            options if captions.known else options.unguided(),
            fps=float(self.config.clip.fps),
        )
        latent = sample_batch(velocity, latent, target=target, graphs=self.graphs, callback=callback)
        require_finite(latent, self.generator)
        planes_v, planes_a = self.layout.unstack(latent)
        clips = self.codec.decode(
            None if options.task == "t2a" else planes_v, None if options.task == "t2v" else planes_a
        )
        sources = [*given] if len(given) == len(batch) else [given[0] if given else None] * len(batch)
        return [
            Generated(
                with_given(clip, source, options.task, request.prompt),
                row,
                self.provenance(request, options, source) | {"batch": f"{place}/{len(batch)}"},
            )
            for place, (clip, row, request, source) in enumerate(
                zip(clips, latent.cpu(), batch, sources, strict=True), 1
            )
        ]

    def _latent_shape(self) -> tuple[int, int, int, int]:
        layout = self.layout
        return self.config.mdsa.latent_channels, layout.num_frames, layout.rows, layout.columns

    def _latent_of(self, given: Sequence[Clip], task: str) -> Tensor | None:
        """P that holds the stream which a task is given, encoded without the other one."""
        if not given:
            return None
        [planes] = self.codec.encode(given, GIVEN[task])
        return self.layout.stack(planes, planes)  # only the given stream's frames are taken


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
