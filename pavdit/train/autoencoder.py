"""Stage 1: train MDSA to reconstruct (PAV-DiT eq. 10 to 12 with gamma = 0)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from rich.console import Console
from torch import Tensor, nn

from pavdit.config import RunConfig
from pavdit.data.loader import Batch, Clips, batches, collate, members_of_step, open_clips
from pavdit.mdsa.autoencoder import MDSA
from pavdit.mdsa.loss import draw_frames, mdsa_loss
from pavdit.mdsa.streams import draw_stream_masks
from pavdit.metrics.signal import psnr
from pavdit.train.examples import Analyser, batch_indices, in_order, mean_clip, step_generator
from pavdit.train.parallel import WHOLE, Part, own_parts
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
        self.parts: tuple[Part, ...] = ()
        self.next: tuple[int, Part] | None = None
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
        present = [has.sum().clamp(min=1) / part.count for has in (masks.has_video, masks.has_audio)]
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
        members = members_of_step(len(self.train), self.config.train.batch_size, self.config.train.seed, step)
        return tuple(self.train.read(index, epoch).name for index, epoch in members)

    def _batch(self, step: int, part: Part) -> Batch:
        train, data = self.config.train, self.config.data
        if (step, part) != self.next:  # the first update, or the first after resuming
            own = own_parts(train.batch_size, train.accumulate)
            self.parts = own[own.index(part) :] + own[: own.index(part)] if part in own else (part,)
            self.batches = batches(
                self.train,
                train.batch_size,
                seed=train.seed,
                start_step=step,
                parts=[p.index for p in self.parts],
                num_parts=part.count,
                num_workers=train.num_workers,
                flip_probability=data.flip_probability,
            )
        place = self.parts.index(part) + 1
        self.next = (step, self.parts[place]) if place < len(self.parts) else (step + 1, self.parts[0])
        with torch.random.fork_rng(devices=[]):  # a new loader draws from the global generator
            return next(self.batches)

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
