"""Train MM-Diffusion: coupled U-Nets predict the noise of both streams (Ruan et al., arXiv 2212.09478)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rich.console import Console
from torch import Tensor

from pavdit.baselines.mm_diffusion.config import MMDiffusionRun
from pavdit.baselines.mm_diffusion.sampler import Sampler
from pavdit.baselines.mm_diffusion.schedule import NoiseSchedule
from pavdit.baselines.mm_diffusion.unet import CoupledUNet
from pavdit.clip import Clip, volume_to_frames
from pavdit.contact_sheet import contact_sheet
from pavdit.data.clips import Clips, open_clips, readable
from pavdit.data.loader import Batch, collate
from pavdit.nn.recompute import recompute_layers
from pavdit.train.examples import step_generator
from pavdit.train.feed import Feed
from pavdit.train.parallel import WHOLE, Part
from pavdit.train.shown import Shown

VALIDATION_BATCH = 8

SHOWN_CLIPS = 2


class DenoiserStage:
    """Mean squared errors of the noise of frames and wave, added.

    Args:
        config: the run.
        train: clips to learn from.
        held_out: clips to validate on; where there are none, the training clips serve, and the names of the
            measures say so.
        device: of the model.
    """

    def __init__(self, config: MMDiffusionRun, train: Clips, held_out: Clips, device: torch.device) -> None:
        self.config, self.device = config, device
        self.validation, self.split = (held_out, "held_out") if len(held_out) else (train, "train")
        self.adversary = None
        self.frozen: Mapping[str, Mapping[str, Tensor]] = {}
        self.schedule = NoiseSchedule(config.model.diffusion)
        self.model = CoupledUNet(config.model.unet, config.model.clip.num_frames).to(device)
        recompute_layers(self.model, config.train.gradient_checkpointing)
        self.feed = Feed(train, config.train, config.data, device)

    @classmethod
    def open(
        cls, config: MMDiffusionRun, device: torch.device, console: Console
    ) -> tuple[MMDiffusionRun, DenoiserStage]:
        """Find the clips of a run.

        Raises:
            DataError: a file cannot be used.
        """
        train, held_out = open_clips(config.data, config.model.clip)
        console.print(train.summary)
        console.print(f"{len(train)} clips to train on, {len(held_out)} held out")
        return config, cls(config, train, held_out, device)

    def loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """The error of a part of update `step`, and that of either stream.

        Raises:
            DataError: a clip cannot be read.
        """
        train = self.config.train
        random = step_generator(train.seed, step)
        return self._errors(self.model, self.feed(step, part), random, train.batch_size, part)

    def adversary_loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """There is no adversary."""
        return {}

    def clip_names(self, step: int) -> tuple[str, ...]:
        """The clips of update `step`."""
        return self.feed.names(step)

    @torch.no_grad()
    def validate(self, model: CoupledUNet) -> dict[str, float]:
        """Errors of averaged weights; times, noise and shifts are the same every time."""
        totals: dict[str, float] = {}
        places = list(range(len(self.validation)))
        count = 0
        for first in range(0, len(places), VALIDATION_BATCH):
            clips = list(readable(self.validation, places[first : first + VALIDATION_BATCH]))
            if not clips:
                continue
            batch = collate(clips)
            terms = self._errors(model, batch, step_generator(0, first), len(batch))
            count += len(batch)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(batch)
        return {
            f"{self.split}_{'noise_error' if name == 'loss' else name}": total / count
            for name, total in totals.items()
        }

    def show(self, model: CoupledUNet) -> Shown:
        """Clips of averaged weights, of the same seeds every time."""
        config = self.config.model
        sampler = Sampler(config, model, self.device)
        made = sampler.make(range(SHOWN_CLIPS), self.config.sampling)
        clips = {
            f"seed-{seed}": Clip(frames, wave, config.clip.fps, config.clip.sample_rate)
            for seed, (frames, wave) in enumerate(
                zip(volume_to_frames(made["video"].cpu()), made["audio"][:, 0].cpu(), strict=True)
            )
        }
        sheet = contact_sheet(list(clips.values()), config.clip, config.mel)
        return Shown({"sheet": sheet.movedim(0, 2)}, clips)

    def _errors(
        self, model: CoupledUNet, batch: Batch, random: torch.Generator, batch_size: int, part: Part = WHOLE
    ) -> dict[str, Tensor]:
        """Draws for the whole batch of an update, of which a part takes its rows."""
        rows = part.rows(batch_size)
        steps = self.config.model.diffusion.num_timesteps
        t = torch.randint(steps, (batch_size,), generator=random)[rows].to(self.device)
        shifts = model.draw_shifts(random).to(self.device)
        errors = {}
        clean = {"video": batch.video, "audio": batch.wave[:, None]}
        noise = {
            name: torch.randn((batch_size, *x.shape[1:]), generator=random)[rows].to(self.device)
            for name, x in clean.items()
        }
        noisy = {
            name: self.schedule.diffuse(x.to(self.device, non_blocking=True), noise[name], t)
            for name, x in clean.items()
        }
        predicted = model(noisy["video"], noisy["audio"], t, shifts)
        for name, value in zip(("video", "audio"), predicted, strict=True):
            errors[f"{name}_noise_error"] = (value.float() - noise[name]).square().mean()
        return {"loss": errors["video_noise_error"] + errors["audio_noise_error"], **errors}
