"""Stage 2: train STDiT to carry noise to latents (PAV-DiT 4.2), all tasks at once (UniForm III)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rich.console import Console
from torch import Tensor, nn

from pavdit.clip import Clip
from pavdit.codec import Codec
from pavdit.config import TASKS, ConfigError, RunConfig
from pavdit.contact_sheet import contact_sheet
from pavdit.data.latent_cache import LatentSet
from pavdit.encoders import Autoencoder
from pavdit.metrics.pairs import pair_distances, right_against_wrong
from pavdit.text import TextEncoder
from pavdit.train.draws import Draws
from pavdit.train.examples import batch_indices
from pavdit.train.latents import encode_run, mirrors
from pavdit.train.matching import VelocityMatching, prompt_of
from pavdit.train.models import Generator
from pavdit.train.parallel import WHOLE, Part
from pavdit.train.samples import Sampler
from pavdit.train.shown import Shown

VALIDATION_BATCH = 16

CLIPS_SHOWN = 2
"""Of each task; the same ones, from the same noise, every time."""


class GeneratorStage:
    """Velocity matching on latents.

    Args:
        config: the run, with class names or the language model's name.
        train: latents to learn from.
        held_out: latents to validate on; None: those of `train`, and the measures' names say so.
        autoencoder: what made the latents; every checkpoint carries it.
        device: of the model.
        text: what a language model says of the captions; None: classes are the condition.
    """

    def __init__(
        self,
        config: RunConfig,
        train: LatentSet,
        held_out: LatentSet | None,
        autoencoder: Autoencoder,
        device: torch.device,
        text: TextEncoder | None = None,
    ) -> None:
        self.config, self.train = config, train
        self.validation, self.split = (held_out, "held_out") if held_out else (train, "train")
        self.adversary = None
        self.device = device
        self.frozen: Mapping[str, Mapping[str, Tensor]] = {"autoencoder": autoencoder.state_dict()}
        self.codec = Codec(config.model, autoencoder, device, torch.float32)
        self.generator = Generator(config.model, text).to(device)
        self.model: nn.Module = self.generator
        layout = self.generator.stdit.layout
        self.sampler = Sampler(config.model, layout, device)
        self.matching = VelocityMatching(config.model, layout, device)
        self.task_shares = torch.zeros(len(TASKS))
        for task, share in config.train.tasks.items():
            self.task_shares[TASKS.index(task)] = share
        if not self.task_shares.sum() > 0 or self.task_shares.min() < 0:
            raise ConfigError(f"train.tasks: want shares >= 0, one of them > 0, got {config.train.tasks}")

    @classmethod
    def open(
        cls, config: RunConfig, device: torch.device, console: Console
    ) -> tuple[RunConfig, GeneratorStage]:
        """Encode what is not in the cache yet, and fill class names or language model into the configuration.

        Raises:
            CheckpointError: the autoencoder's checkpoint is missing, damaged or of another architecture.
            ConfigError: the configuration names other classes than the clips have, or another language model.
            DataError: a clip cannot be read, or a caption is too long.
        """
        run = encode_run(config, device, console)
        train, held_out = run.latents()
        return run.config, cls(run.config, train.on(device), held_out, run.autoencoder, device, run.captions)

    def loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """Mean squared velocity error of a part of update `step`."""
        return self.objective(self.inputs(step, part))

    def inputs(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """What a part of update `step` is shown, on the device: chance, latents and text."""
        train = self.config.train
        draws = self._draws(batch_indices(len(self.train), train.batch_size, train.seed, step), step)
        return self.matching.inputs(self.generator.text, self.train, draws.part(part.rows(train.batch_size)))

    def objective(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss on `inputs`: work of the device alone."""
        return {"loss": self.matching.error(self.generator, inputs)}

    def adversary_loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """There is no adversary."""
        return {}

    def clip_names(self, step: int) -> tuple[str, ...]:
        """The clips of update `step`."""
        train = self.config.train
        indices = batch_indices(len(self.train), train.batch_size, train.seed, step)
        return tuple(self.train.names[i] for i in indices)

    def validate(self, model: Generator) -> dict[str, float]:
        """Errors of averaged weights on held-out clips: of each task, and their mean by the tasks' shares.

        Times, noise and dropped captions are the same every time and for every task. With `pair_clips`, also
        how far the sound that is made for a picture is from its own and from others'
        (`pavdit.metrics.pairs`).
        """
        errors = {task: self._task_error(model, task) for task, share in self._shares().items() if share > 0}
        total = sum(self._shares().values())
        mean = sum(error * self._shares()[task] for task, error in errors.items()) / total
        measured = {"velocity_error": mean}
        if len(errors) > 1:
            measured |= {f"{task}_velocity_error": error for task, error in errors.items()}
        measured = {f"{self.split}_{name}": value for name, value in measured.items()}
        if self.config.train.pair_clips > 1:
            sets = {"train": self.train, self.split: self.validation}
            for split, latents in sets.items():
                measured |= {f"{split}_v2a_{k}": v for k, v in self._pairs(model, latents).items()}
        return measured

    def show(self, model: Generator) -> Shown:
        """Clips of each task, from the same noise every time, and one sheet of all."""
        clips: dict[str, Clip] = {}
        count = min(CLIPS_SHOWN, len(self.validation))
        for task, share in self._shares().items():
            if share == 0:
                continue
            for i in range(count):
                prompt = prompt_of(self.validation, i, model.text)
                prompts = [prompt] if prompt else None
                latent = self.sampler.make(model, self.validation, [i], task=task, prompts=prompts, seed=i)
                [clip] = self.sampler.decode(self.codec, latent, task)
                clips[f"{task}-{i}"] = clip
        config = self.config.model
        sheet = contact_sheet(list(clips.values()), config.clip, config.mel)
        return Shown({"sheet": sheet.movedim(0, 2)}, clips)

    def _shares(self) -> Mapping[str, float]:
        return dict(zip(TASKS, self.task_shares.tolist(), strict=True))

    def _draws(self, clips: Tensor, step: int) -> Draws:
        config = self.config
        return Draws.of(
            clips,
            self.task_shares,
            config.model.flow,
            seed=config.train.seed,
            step=step,
            text_dropout=config.model.text.dropout,
            flip_probability=config.data.flip_probability if mirrors(config) else 0.0,
            language_share=config.model.text.language_share,
        )

    @torch.no_grad()
    def _task_error(self, model: Generator, task: str) -> float:
        count, total = len(self.validation), 0.0
        draws = Draws.of(
            torch.arange(count),
            torch.eye(len(TASKS))[TASKS.index(task)],
            self.config.model.flow,
            seed=0,
            step=0,
            text_dropout=self.config.model.text.dropout,
        )
        for first in range(0, count, VALIDATION_BATCH):
            part = draws.part(slice(first, first + VALIDATION_BATCH))
            total += self._error(model, self.validation, part).item() * len(part)
        return total / count

    def _error(self, model: Generator, latents: LatentSet, draws: Draws) -> Tensor:
        return self.matching.error(model, self.matching.inputs(model.text, latents, draws))

    def _pairs(self, model: Generator, latents: LatentSet) -> dict[str, float]:
        """Sound made from pictures alone, without a caption that could tell it, against the clips' own."""
        count = min(self.config.train.pair_clips, len(latents))
        if count < 2:
            return {}
        chosen = torch.linspace(0, len(latents) - 1, count).long().tolist()  # spread over files and classes
        sound = (self.matching.stream_of_frame == 1).to(self.device)
        made, real = [], []
        for first in range(0, count, VALIDATION_BATCH):
            clips = chosen[first : first + VALIDATION_BATCH]
            latent = self.sampler.make(model, latents, clips, task="v2a", prompts=None, seed=first)
            made.append(self._cells(latent, sound))
            real.append(self._cells(latents.read(clips, ["joint"] * len(clips)).to(self.device), sound))
        return right_against_wrong(pair_distances(torch.cat(made), torch.cat(real)))

    def _cells(self, latent: Tensor, frames: Tensor) -> Tensor:
        """``(B, n)``: what is not padding in some frames of P."""
        keep = frames[:, None, None].expand(latent.shape[2:])
        if self.matching.valid is not None:
            keep = keep & self.matching.valid
        return latent[:, :, keep].flatten(1)
