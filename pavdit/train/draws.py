"""What chance decides of the samples of an update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pavdit.config import FlowConfig
from pavdit.flow.path import draw_noise
from pavdit.flow.schedule import draw_times
from pavdit.train.examples import step_generator

_NOISE = 2  # keeps this stream of random numbers apart


@dataclass(frozen=True, slots=True)
class Draws:
    """One row a sample; a part of an update takes its rows.

    Attributes:
        clips: ``(B,)`` int64, places in the set.
        task: ``(B,)`` int64, indices into `pavdit.config.TASKS`.
        t: ``(B,)`` float32, of what is made.
        drop_text: ``(B,)`` bool.
        mirrored: ``(B,)`` bool.
        spoken: ``(B,)`` bool, whether a language model reads the prompt, where there are two ways.
        number: ``(B,)`` int64, of the sample in its update.
        total: samples of the whole update.
        seed: of the run.
        step: of the update.
    """

    clips: Tensor
    task: Tensor
    t: Tensor
    drop_text: Tensor
    mirrored: Tensor
    spoken: Tensor
    number: Tensor
    total: int
    seed: int
    step: int

    @classmethod
    def of(
        cls,
        clips: Tensor,
        task_shares: Tensor,
        flow: FlowConfig,
        *,
        seed: int,
        step: int,
        text_dropout: float,
        flip_probability: float = 0.0,
        language_share: float = 0.0,
    ) -> Draws:
        """Draw for all samples of an update: a function of these arguments alone."""
        random, batch = step_generator(seed, step), len(clips)
        return cls(
            clips,
            torch.multinomial(task_shares, batch, replacement=True, generator=random),
            draw_times(batch, flow.time_distribution, random, flow.time_shift),
            torch.rand(batch, generator=random) < text_dropout,
            torch.rand(batch, generator=random) < flip_probability,
            torch.rand(batch, generator=random) < language_share,
            torch.arange(batch),
            batch,
            seed,
            step,
        )

    def __len__(self) -> int:
        return len(self.clips)

    def part(self, rows: slice) -> Draws:
        """Some of the samples."""
        return Draws(
            self.clips[rows],
            self.task[rows],
            self.t[rows],
            self.drop_text[rows],
            self.mirrored[rows],
            self.spoken[rows],
            self.number[rows],
            self.total,
            self.seed,
            self.step,
        )

    def noise(self, shape: tuple[int, ...], flow: FlowConfig, device: torch.device) -> Tensor:
        """``(B, *shape)`` on the device, drawn there: other numbers on another kind of device.

        The rows of a part out of a draw for the whole update, which is one pass of the generator instead of
        one a sample.
        """
        random = step_generator(self.seed, self.step, _NOISE)
        if device.type != "cpu":
            random = torch.Generator(device).manual_seed(random.initial_seed())
        [whole] = draw_noise((self.total, *shape), [random], flow.prior)
        first, last = int(self.number[0]), int(self.number[-1])
        return whole[first : last + 1]
