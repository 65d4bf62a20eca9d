"""What a call may choose about its samples, in one value that everything below takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, TypedDict

from pavdit.config import TASKS, FlowConfig
from pavdit.flow.schedule import time_grid
from pavdit.flow.step_cache import StepCache, Use, exactly
from pavdit.tasks import JOINT, PIPELINES

Method = Literal["euler", "heun"]


class Choices(TypedDict, total=False):
    """The keyword arguments of a call that say how its samples are made; what is missing is as configured."""

    steps: int | None
    """Steps of the sampler."""
    guidance: float | None
    """Scale s of ``v_null + s (v_cond - v_null)``."""
    guidance_interval: tuple[float, float] | None
    """Times t in which guidance is applied; a step outside costs half as much."""
    step_cache: StepCache | None
    """Which steps reuse what the middle blocks added; without one every step computes all."""
    pipeline: str | None
    """One of `pavdit.tasks.PIPELINES`: whether both streams are made at once or one after the other."""


OPTION_OF = {"steps": "num_steps", "guidance": "guidance_scale"}
"""The option that a choice sets, where it has another name."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How samples are made; all clips of a call share it.

    Attributes:
        task: one of `pavdit.config.TASKS`.
        num_steps: of the sampler.
        guidance_scale: s of ``v_null + s (v_cond - v_null)``; 1 leaves the null half out.
        guidance_interval: times t in which guidance is applied.
        method: integrator.
        reflect: fold into [-1, 1] after each step.
        time_shift: see `pavdit.flow.schedule.shifted`.
        step_cache: which steps reuse what a range of blocks added; None: none does.
        pipeline: one of `pavdit.tasks.PIPELINES`, for the task ``t2av``.

    Raises:
        ValueError: an option cannot be used; the message names it.
    """

    task: str = "t2av"
    num_steps: int = 30
    guidance_scale: float = 4.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    method: Method = "euler"
    reflect: bool = True
    time_shift: float = 1.0
    step_cache: StepCache | None = None
    pipeline: str = JOINT

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task: want {', '.join(TASKS)}, got {self.task!r}")
        if self.pipeline not in PIPELINES:
            raise ValueError(f"pipeline: want {', '.join(PIPELINES)}, got {self.pipeline!r}")
        if self.pipeline != JOINT and self.task != "t2av":
            raise ValueError(f"pipeline {self.pipeline}: want task t2av, of both streams, got {self.task}")
        if self.num_steps < 1:
            raise ValueError(f"steps: want num_steps >= 1, got {self.num_steps}")
        if not self.guidance_scale >= 0:
            raise ValueError(f"guidance: want a scale >= 0, got {self.guidance_scale}")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval: want 0 <= low <= high <= 1, got {low:g} and {high:g}")
        if self.step_cache is not None and self.method != "euler":
            raise ValueError(f"step_cache: want method euler, got {self.method}")

    @classmethod
    def of(cls, flow: FlowConfig, task: str, choices: Choices) -> SamplingOptions:
        """As configured, but for what a call chose.

        Raises:
            TypeError: there is no such choice.
            ValueError: as for the class.
        """
        if unknown := choices.keys() - Choices.__annotations__.keys():
            raise TypeError(
                f"options: want some of {', '.join(Choices.__annotations__)}, got {', '.join(unknown)}"
            )
        configured = {f.name: getattr(flow, f.name) for f in fields(cls) if f.name in FlowConfig.model_fields}
        chosen = {OPTION_OF.get(name, name): value for name, value in choices.items() if value is not None}
        return cls(task=task, **{**configured, **chosen})

    @property
    def guided(self) -> bool:
        """Whether any step may need both halves."""
        return self.guidance_scale != 1.0

    def in_steps(self) -> list[SamplingOptions]:
        """The same for each of the pipeline's tasks, which follow each other."""
        if self.pipeline == JOINT:
            return [self]
        return [replace(self, task=task, pipeline=JOINT) for task in PIPELINES[self.pipeline]]

    def unguided(self) -> SamplingOptions:
        """The same without guidance, for a batch of null captions."""
        return replace(self, guidance_scale=1.0)

    def times(self) -> list[float]:
        """Of the steps, and 1."""
        return time_grid(self.num_steps, self.time_shift)

    def uses(self) -> dict[float, Use]:
        """What the step at each time does with the residual of the cached blocks."""
        times = self.times()[:-1]
        if self.step_cache is None:
            return dict.fromkeys(times, "plain")
        low, high = self.guidance_interval
        guided = [self.guided and low <= t <= high for t in times]
        return dict(zip(times, self.step_cache.plan(times, guided), strict=True))

    def described(self) -> dict[str, str]:
        """For a file's metadata: enough to make the sample again with the same weights."""
        low, high = self.guidance_interval
        return {
            "steps": str(self.num_steps),
            "guidance": exactly(self.guidance_scale),
            "guidance_interval": f"{exactly(low)}-{exactly(high)}",
            "step_cache": str(self.step_cache or "none"),
            "task": self.task,
            "pipeline": self.pipeline,
        }

    @staticmethod
    def chosen(described: Mapping[str, str]) -> Choices:
        """The choices that `described` tells of.

        Raises:
            KeyError: one is missing.
            ValueError: one is no number.
        """
        low, high = map(float, described["guidance_interval"].split("-"))
        cache = described["step_cache"]
        return {
            "steps": int(described["steps"]),
            "guidance": float(described["guidance"]),
            "guidance_interval": (low, high),
            "step_cache": None if cache == "none" else StepCache.parse(cache),
            "pipeline": described.get("pipeline", JOINT),  # earlier versions had no other
        }

    def kernels(self) -> tuple[object, ...]:
        """What a step's kernels depend on besides shapes: part of the key of its graph."""
        return (self.reflect,)
