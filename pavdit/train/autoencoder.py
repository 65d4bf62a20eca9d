"""Train MDSA (PAV-DiT eq. 10 to 12): its first stage reconstructs, its second adds KL and discriminators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from rich.console import Console
from torch import Tensor, nn

from pavdit.config import RunConfig
from pavdit.data.clips import Clips, open_clips, readable
from pavdit.data.loader import collate
from pavdit.latents import Planes
from pavdit.mdsa.adversarial import discriminator_terms, generator_terms
from pavdit.mdsa.autoencoder import MDSA, Reconstruction
from pavdit.mdsa.bottleneck import draw_noise
from pavdit.mdsa.discriminator import Discriminators
from pavdit.mdsa.loss import Distance, draw_frames, gradient_l1, mdsa_loss
from pavdit.mdsa.streams import StreamMasks, draw_stream_masks
from pavdit.nn.recompute import recompute_layers
from pavdit.tasks import STREAMS
from pavdit.train.examples import Analyser, batch_indices, in_order, mean_clip, step_generator
from pavdit.train.feed import Feed
from pavdit.train.parallel import WHOLE, Part
from pavdit.train.perceptual import perceptual_distance
from pavdit.train.reconstruction import reconstruction_psnr, show_reconstructions, shown_to
from pavdit.train.shown import Shown

VALIDATION_BATCH = 8

CALIBRATION_CLIPS = 64
"""Training clips, drawn by the seed, whose level and contrast the untrained model begins at."""

SHOWN_CLIPS = 4

PLANES = ("hw", "tw", "th")


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the discriminators learn from of a part: clips, their detached reconstructions, what counts."""

    real: tuple[Tensor | None, Tensor | None]
    fake: tuple[Tensor | None, Tensor | None]
    frames: Tensor
    masks: StreamMasks | None
    counts: tuple[Tensor, Tensor] | None


class AutoencoderStage:
    """Reconstruction of clips, with stream dropout; with a `train.first_stage`, against discriminators.

    An autoencoder of one stream (`model.mdsa.streams`) is shown that one alone, and nothing is dropped.

    Args:
        config: the run.
        train: clips to learn from.
        held_out: clips to validate on; where there are none, the training clips serve, and the names of the
            measures say so.
        device: of the model.
        perceptual: distance of pictures.
    """

    def __init__(
        self,
        config: RunConfig,
        train: Clips,
        held_out: Clips,
        device: torch.device,
        perceptual: Distance = gradient_l1,
    ) -> None:
        self.config, self.train, self.device = config, train, device
        self.validation, self.split = (held_out, "held_out") if len(held_out) else (train, "train")
        self.model = MDSA(config.model).to(device)
        self._calibrate()
        recompute_layers(self.model, config.train.gradient_checkpointing)
        mdsa, self.perceptual = config.model.mdsa, perceptual
        self.streams = [stream for stream in STREAMS if mdsa.has(stream)]
        second = config.train.first_stage is not None
        self.kl_target = mdsa.kl_target if second and mdsa.kl else None
        self.adversary = Discriminators(config.model).to(device) if second and mdsa.adversarial else None
        self.judged: dict[int, _Judged] = {}
        self.frozen: Mapping[str, Mapping[str, Tensor]] = {}
        self.analyse = Analyser(config.model, train)
        self.feed = Feed(train, config.train, config.data, device)
        self.mean: tuple[Tensor, Tensor] | None = None

    @classmethod
    def open(
        cls, config: RunConfig, device: torch.device, console: Console
    ) -> tuple[RunConfig, AutoencoderStage]:
        """Find the clips of a run, and the weights of its perceptual term.

        Raises:
            DataError: a file cannot be used.
        """
        train, held_out = open_clips(config.data, config.model.clip)
        console.print(train.summary)
        console.print(f"{len(train)} clips to train on, {len(held_out)} held out")
        perceptual = perceptual_distance(config, device, console)
        return config, cls(config, train, held_out, device, perceptual)

    def _calibrate(self) -> None:
        """Begin at the level and contrast of the clips; weights of a checkpoint replace this."""
        count = len(self.train)
        chosen = batch_indices(count, min(count, CALIBRATION_CLIPS), self.config.train.seed, 0).tolist()
        clips = [clip.require(self.config.model.clip) for clip in readable(self.train, chosen)]
        examples = Analyser(self.config.model)(collate(clips), self.device)
        self.model.calibrate(*shown_to(self.config.model, examples))

    def loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """Terms of eq. 10 for a part of update `step`.

        Raises:
            DataError: a clip cannot be read.
        """
        inputs = self.inputs(step, part)
        output, terms = self._reconstruct(inputs)
        if self.adversary is not None and step >= self.config.train.disc_start:  # gamma of eq. 12
            clips, frames = (inputs.get("video"), inputs.get("audio")), inputs["frames"]
            masks, counts = _masks(inputs), _counts(inputs)
            with torch.no_grad():
                real = self.adversary(*clips, frames)
            fake = self.adversary(output.video, output.audio, frames)
            terms |= generator_terms(real, fake, masks, counts)
            terms["loss"] = terms["loss"] + terms["adversarial"]
            video, audio = (None if x is None else x.detach() for x in (output.video, output.audio))
            self.judged[part.index] = _Judged(clips, (video, audio), frames, masks, counts)
        return terms

    def inputs(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """What a part of update `step` is shown, on the device.

        Returns:
            ``video`` ``(B, 3, T, H, W)`` and ``audio`` ``(B, 1, T, M, L)``, as far as the model has them;
            ``frames`` ``(B,)`` of the perceptual term; for both streams the fields of `StreamMasks`, and
            ``video_count`` and ``audio_count`` of the whole update's samples, as its part's share; in the
            second stage ``noise_<stream>_<plane>``.

        Raises:
            DataError: a clip cannot be read.
        """
        train, mdsa, clip = self.config.train, self.config.model.mdsa, self.config.model.clip
        examples = self.analyse(self.feed(step, part), self.device)
        random, rows = step_generator(train.seed, step), part.rows(train.batch_size)
        all_masks = draw_stream_masks(train.batch_size, mdsa.stream_dropout, random)
        frames = draw_frames(train.batch_size, clip.num_frames, random)[rows]
        shown = {"frames": frames}
        if len(self.streams) == 2:
            shown |= all_masks.rows(rows).as_dict()
            for name, has in (("video", all_masks.has_video), ("audio", all_masks.has_audio)):
                shown[f"{name}_count"] = has.sum().clamp(min=1) * part.share
        if self.kl_target == "latent":
            for name in self.streams:
                noise = draw_noise(train.batch_size, mdsa.latent_channels, self.config.model.grid, random)
                shown |= {f"noise_{name}_{plane}": getattr(noise, plane)[rows] for plane in PLANES}
        shown = {name: x.to(self.device, non_blocking=True) for name, x in shown.items()}
        clips = zip(STREAMS, shown_to(self.config.model, examples), strict=True)
        return shown | {name: x for name, x in clips if x is not None}

    def objective(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss on `inputs` without discriminators: work of the device alone."""
        return self._reconstruct(inputs)[1]

    def _reconstruct(self, inputs: Mapping[str, Tensor]) -> tuple[Reconstruction, dict[str, Tensor]]:
        noise_v, noise_a = (
            Planes(**{plane: inputs[f"noise_{name}_{plane}"] for plane in PLANES})
            if self.kl_target == "latent" and name in self.streams
            else None
            for name in STREAMS
        )
        video, audio, masks = inputs.get("video"), inputs.get("audio"), _masks(inputs)
        output = self.model(video, audio, masks, (noise_v, noise_a))
        terms = mdsa_loss(
            output,
            video,
            audio,
            inputs["frames"],
            masks,
            _counts(inputs),
            perceptual_weight=self.config.train.perceptual_weight,
            perceptual=self.perceptual,
            l1_beta=self.config.train.l1_beta,
            kl_target=self.kl_target,
        )
        return output, terms

    def adversary_loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """The discriminators' loss on the clips and reconstructions of `loss`, part by part."""
        if self.adversary is None or step < self.config.train.disc_start:
            return {}
        judged = self.judged.pop(part.index)
        real = self.adversary(*judged.real, judged.frames)
        fake = self.adversary(*judged.fake, judged.frames)
        return discriminator_terms(real, fake, judged.masks, judged.counts)

    def clip_names(self, step: int) -> tuple[str, ...]:
        """The clips of update `step`."""
        return self.feed.names(step)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR of frames and of mel images, in dB, and of the training set's mean clip on the same clips, as
        far as the model has such a stream."""
        self.mean = self.mean or mean_clip(self.train, self.config.model)
        sets = in_order(self.validation, VALIDATION_BATCH, self.config.model, self.device)
        measured = reconstruction_psnr(model, sets, self.mean, self.config.model)
        return {f"{self.split}_{name}": value for name, value in measured.items()}

    def show(self, model: nn.Module) -> Shown:
        """The first clips of the validation beside their reconstructions."""
        clips = list(islice(readable(self.validation, range(len(self.validation))), SHOWN_CLIPS))
        examples = Analyser(self.config.model)(collate(clips), self.device)
        return show_reconstructions(model, clips, examples, self.config.model)


def _masks(inputs: Mapping[str, Tensor]) -> StreamMasks | None:
    if "has_video" not in inputs:  # one stream, which is always there
        return None
    return StreamMasks(*(inputs[name] for name in StreamMasks.__dataclass_fields__))


def _counts(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    return (inputs["video_count"], inputs["audio_count"]) if "video_count" in inputs else None
