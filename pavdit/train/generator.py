"""Stage 2: train STDiT to carry noise to latents (PAV-DiT 4.2), all tasks at once (UniForm III)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from pavdit.config import TASKS, ConfigError, ModelConfig, RunConfig
from pavdit.data.clips import Clips, open_clips
from pavdit.flow.path import draw_noise, interpolate, target_velocity
from pavdit.flow.schedule import draw_times
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA
from pavdit.text import to_bucket
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.examples import batch_indices, in_order, step_generator
from pavdit.train.models import Generator, load_autoencoder
from pavdit.train.parallel import WHOLE, Part
from pavdit.train.shown import Shown

ENCODING_BATCH = 16

# Per task and stream (video, audio): is it made, is it given, is its latent the joint one?
MADE = torch.tensor([[True, True], [False, True], [True, False], [True, False], [False, True]])
GIVEN = torch.tensor([[False, False], [True, False], [False, True], [False, False], [False, False]])
JOINT = torch.tensor([[True, True], [False, True], [True, False], [False, False], [False, False]])


@dataclass(frozen=True, slots=True)
class Latents:
    """Encoded clips.

    Attributes:
        joint: P of both streams encoded together, ``(N, C, G, rows, columns)`` float32.
        alone: P whose streams were encoded without each other, same shape.
        labels: class names, empty where a clip has none.
        names: where each clip came from.
    """

    joint: Tensor
    alone: Tensor
    labels: tuple[str, ...]
    names: tuple[str, ...]


@torch.no_grad()
def encode_clips(mdsa: MDSA, clips: Clips, config: ModelConfig, device: torch.device) -> Latents:
    """Encode every clip once, jointly and each stream alone.

    Raises:
        DataError: a clip cannot be read.
    """
    layout = PlaneLayout.choose(config.grid, config.stdit.layout)
    joint: list[Tensor] = []
    alone: list[Tensor] = []
    labels: list[str] = []
    names: list[str] = []
    for examples in in_order(clips, ENCODING_BATCH, config, device):
        both_ways = mdsa.encode_both_ways(examples.video, examples.mel)
        for rows, (video, audio) in zip((joint, alone), both_ways, strict=True):
            rows.append(layout.stack(video.mode(), audio.mode()).cpu())
        labels.extend(examples.labels)
        names.extend(examples.names)
    return Latents(torch.cat(joint), torch.cat(alone), tuple(labels), tuple(names))


class GeneratorStage:
    """Velocity matching on latents.

    Args:
        config: the run, with class names.
        train: latents to learn from.
        held_out: latents to validate on; None: those of `train`, and the measures' names say so.
        autoencoder: what made the latents; every checkpoint carries it.
        device: of the model.
    """

    def __init__(
        self,
        config: RunConfig,
        train: Latents,
        held_out: Latents | None,
        autoencoder: MDSA,
        device: torch.device,
    ) -> None:
        self.config, self.train = config, train
        self.validation, self.split = (held_out, "held_out") if held_out else (train, "train")
        self.adversary = None
        self.device, self.frozen = device, {"autoencoder": autoencoder.state_dict()}
        self.model = Generator(config.model).to(device)
        layout = self.model.stdit.layout
        is_video = layout.frames_of("video")
        self.stream_of_frame = torch.where(is_video, 0, 1)  # (G,)
        valid = layout.valid()
        self.valid = None if valid is None else valid.to(device)
        self.task_shares = torch.zeros(len(TASKS))
        for task, share in config.train.tasks.items():
            self.task_shares[TASKS.index(task)] = share
        if not self.task_shares.sum() > 0 or self.task_shares.min() < 0:
            raise ConfigError(f"train.tasks: want shares >= 0, one of them > 0, got {config.train.tasks}")

    @classmethod
    def open(
        cls, config: RunConfig, device: torch.device, console: Console
    ) -> tuple[RunConfig, GeneratorStage]:
        """Read the clips of a run, encode them, and fill the class names into the configuration.

        Raises:
            CheckpointError: the autoencoder's checkpoint is missing, damaged or of another architecture.
            ConfigError: the configuration names other classes than the clips have.
        """
        if config.train.autoencoder is None:
            raise ConfigError("train: want autoencoder (a checkpoint) for stage 'generator', got none")
        saved = open_checkpoint(config.train.autoencoder)
        mdsa = load_autoencoder(saved, config.model).to(device)
        train, held_out = open_clips(config.data, config.model.clip)
        console.print(train.summary)
        config = _with_classes(config, train.class_names)
        console.print(f"encoding {len(train)} clips to train on, {len(held_out)} held out, with {saved.path}")
        unseen = encode_clips(mdsa, held_out, config.model, device) if len(held_out) else None
        return config, cls(config, encode_clips(mdsa, train, config.model, device), unseen, mdsa, device)

    def loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """Mean squared velocity error of a part of update `step`."""
        train = self.config.train
        indices = batch_indices(len(self.train.labels), train.batch_size, train.seed, step)
        random, rows = step_generator(train.seed, step), part.rows(train.batch_size)
        return {"loss": self._error(self.model, self.train, indices, random, rows)}

    def adversary_loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """There is no adversary."""
        return {}

    def clip_names(self, step: int) -> tuple[str, ...]:
        """The clips of update `step`."""
        train = self.config.train
        indices = batch_indices(len(self.train.labels), train.batch_size, train.seed, step)
        return tuple(self.train.names[i] for i in indices)

    @torch.no_grad()
    def validate(self, model: Generator) -> dict[str, float]:
        """The same error of averaged weights on held-out clips, with the same draws every time."""
        count = len(self.validation.labels)
        random, total = step_generator(0, 0), 0.0
        for indices in torch.arange(count).split(ENCODING_BATCH):
            total += self._error(model, self.validation, indices, random).item() * len(indices)
        return {f"{self.split}_velocity_error": total / count}

    def show(self, model: Generator) -> Shown:
        """Nothing yet."""
        return Shown()

    def _error(
        self,
        model: Generator,
        latents: Latents,
        indices: Tensor,
        random: torch.Generator,
        rows: slice = slice(None),
    ) -> Tensor:
        """Draw task, time, noise, text dropout for all `indices`; compare the velocities of `rows` of them on
        made, valid cells."""
        config, batch = self.config.model, len(indices)
        task = torch.multinomial(self.task_shares, batch, replacement=True, generator=random)  # (B,)
        t = draw_times(batch, config.flow.time_distribution, random)
        noise = draw_noise(latents.joint.shape[1:], [random] * batch, config.flow.prior)
        drop_text = torch.rand(batch, generator=random) < config.text.dropout
        indices, task, t, noise, drop_text = (x[rows] for x in (indices, task, t, noise, drop_text))
        batch = len(indices)
        made, given, joint = MADE[task], GIVEN[task], JOINT[task]  # (B, 2) each
        times = torch.where(
            given, 1.0, torch.where(made, t[:, None], 0.0)
        )  # (B, 2), 0: this stream stays noise
        frame = self.stream_of_frame
        data = torch.where(_spread(joint[:, frame]), latents.joint[indices], latents.alone[indices])
        point = interpolate(noise, data, times[:, None, frame])
        point = torch.where(_spread(given[:, frame]), data, point)  # given planes are the data to the bit
        labels = [latents.labels[i] for i in indices]
        drop_text |= torch.tensor([not label for label in labels])

        def put(x: Tensor) -> Tensor:
            return x.to(self.device, non_blocking=True)

        tokens = model.text.encode([label or config.text.class_names[0] for label in labels])
        text, text_mask = to_bucket(tokens, config.stdit.max_text_length)
        velocity = model.stdit(
            put(point),
            put(times),
            text,
            text_mask=text_mask,
            drop_text=put(drop_text),
            task=put(task),
            clean=put(given),
            fps=torch.full((batch,), float(config.clip.fps), device=self.device),
        )
        counts = _spread(put(made[:, frame])).expand(-1, 1, -1, *data.shape[3:])  # (B, 1, G, rows, columns)
        if self.valid is not None:
            counts = counts & self.valid
        square = (velocity.float() - put(target_velocity(noise, data))).square().mean(1, keepdim=True)
        return ((square * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)).mean()


def _with_classes(config: RunConfig, found: Sequence[str]) -> RunConfig:
    """Fill in the class names; clips without any class are one class, ``clip``."""
    text = config.model.text
    if text.class_names and not set(found) <= set(text.class_names):
        raise ConfigError(
            f"text.class_names: want every class of the clips ({', '.join(found)}), "
            f"got {', '.join(text.class_names)}"
        )
    text = text.model_copy(update={"class_names": text.class_names or tuple(found) or ("clip",)})
    return config.model_copy(update={"model": config.model.model_copy(update={"text": text})})


def _spread(per_frame: Tensor) -> Tensor:
    """``(B, G)`` to ``(B, 1, G, 1, 1)``."""
    return per_frame[:, None, :, None, None]
