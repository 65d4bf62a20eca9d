"""Stage 1: train MDSA to reconstruct (PAV-DiT eq. 10 to 12 with gamma = 0)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from rich.console import Console
from torch import Tensor, nn

from pavdit.config import RunConfig
from pavdit.data.clips import Clips, open_clips
from pavdit.data.loader import Batch, batches, collate
from pavdit.mdsa.autoencoder import MDSA
from pavdit.mdsa.loss import draw_frames, mdsa_loss
from pavdit.mdsa.streams import draw_stream_masks
from pavdit.metrics.signal import psnr
from pavdit.train.examples import Analyser, batch_indices, in_order, mean_clip, step_generator
from pavdit.train.parallel import WHOLE, Part
from pavdit.train.shown import Shown

VALIDATION_BATCH = 8

CALIBRATION_CLIPS = 64
"""Training clips, drawn by the seed, whose level and contrast the untrained model begins at."""


class AutoencoderStage:
    """Reconstruction of clips, with stream dropout.

    Args:
        config: the run.
        train: clips to learn from.
        held_out: clips to validate on; where there are none, the training clips serve, and the names of the
            measures say so.
        device: of the model.
    """

    def __init__(self, config: RunConfig, train: Clips, held_out: Clips, device: torch.device) -> None:
        self.config, self.train, self.device = config, train, device
        self.validation, self.split = (held_out, "held_out") if len(held_out) else (train, "train")
        self.model = MDSA(config.model).to(device)
        self._calibrate()
        self.adversary = None
        self.frozen: Mapping[str, Mapping[str, Tensor]] = {}
        self.analyse = Analyser(config.model, train)
        self.batches: Iterator[Batch] = iter(())
        self.next = (-1, 0)
        self.mean: tuple[Tensor, Tensor] | None = None

    @classmethod
    def open(
        cls, config: RunConfig, device: torch.device, console: Console
    ) -> tuple[RunConfig, AutoencoderStage]:
        """Find the clips of a run.

        Raises:
            DataError: a file cannot be used.
        """
        train, held_out = open_clips(config.data, config.model.clip)
        console.print(train.summary)
        console.print(f"{len(train)} clips to train on, {len(held_out)} held out")
        if config.train.perceptual_weight > 0:
            console.print("perceptual loss: multi-scale gradient L1, as there is no LPIPS trunk")
        return config, cls(config, train, held_out, device)

    def _calibrate(self) -> None:
        """Begin at the level and contrast of the clips; weights of a checkpoint replace this."""
        count = len(self.train)
        chosen = batch_indices(count, min(count, CALIBRATION_CLIPS), self.config.train.seed, 0).tolist()
        clips = [self.train.read(i).require(self.config.model.clip) for i in chosen]
        examples = Analyser(self.config.model)(collate(clips), self.device)
        self.model.calibrate(examples.video, examples.mel)

    def loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """Terms of the reconstruction loss of a part of update `step`.

        Raises:
            DataError: a clip cannot be read.
        """
        train, model = self.config.train, self.config.model
        examples = self.analyse(self._batch(step, part), self.device)
        random = step_generator(train.seed, step)
        masks = draw_stream_masks(train.batch_size, model.mdsa.stream_dropout, random)
        frames = draw_frames(train.batch_size, model.clip.num_frames, random)
        present = [has.sum().clamp(min=1) * part.share for has in (masks.has_video, masks.has_audio)]
        rows = part.rows(train.batch_size)
        masks, frames = masks.rows(rows).to(self.device), frames[rows].to(self.device)
        output = self.model(examples.video, examples.mel, masks)
        return mdsa_loss(
            output,
            examples.video,
            examples.mel,
            frames,
            masks,
            (present[0].to(self.device), present[1].to(self.device)),
            perceptual_weight=train.perceptual_weight,
            l1_beta=train.l1_beta,
        )

    def adversary_loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """There is no adversary."""
        return {}

    def clip_names(self, step: int) -> tuple[str, ...]:
        """The clips of update `step`."""
        return next(self._batches(step, WHOLE)).names

    def _batch(self, step: int, part: Part) -> Batch:
        if (step, part.index) != self.next:  # the first update, or the first after resuming
            self.batches = self._batches(step, part)
            for _ in range(part.index):
                next(self.batches)
        self.next = (step, part.index + 1) if part.index + 1 < part.count else (step + 1, 0)
        with torch.random.fork_rng(devices=[]):  # a new loader draws from the global generator
            return next(self.batches)

    def _batches(self, step: int, part: Part) -> Iterator[Batch]:
        train, data = self.config.train, self.config.data
        return batches(
            self.train,
            train.batch_size,
            seed=train.seed,
            start_step=step,
            parts=part.count,
            rank=part.rank,
            world_size=part.ranks,
            num_workers=train.num_workers,
            flip_probability=data.flip_probability,
        )

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR of frames and of mel images, in dB, and of the training set's mean clip on the same clips."""
        self.mean = self.mean or mean_clip(self.train, self.config.model)
        measured: dict[str, list[Tensor]] = {}
        for examples in in_order(self.validation, VALIDATION_BATCH, self.config.model, self.device):
            output = model(examples.video, examples.mel)
            for name, got, mean, want in (
                ("video", output.video, self.mean[0], examples.video),
                ("mel", output.audio, self.mean[1], examples.mel),
            ):
                measured.setdefault(f"{name}_psnr_db", []).append(psnr(got.clamp(-1, 1), want, peak=2.0))
                measured.setdefault(f"mean_clip_{name}_psnr_db", []).append(
                    psnr(mean.to(want).expand_as(want), want, peak=2.0)
                )
        return {f"{self.split}_{name}": torch.cat(values).mean().item() for name, values in measured.items()}

    def show(self, model: nn.Module) -> Shown:
        """Nothing yet."""
        return Shown()
