"""One update: gradients of all parts, then a step; for small batches as one CUDA graph with the average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pavdit.config import ConfigError, LoopConfig
from pavdit.flow.graph import Capture, Graphs
from pavdit.runtime import Switch
from pavdit.train.ema import Ema
from pavdit.train.optim import Descent
from pavdit.train.parallel import Loss, Part, synchronised
from pavdit.train.ranks import average_gradients, is_parallel, mean_over_ranks
from pavdit.train.stage import SplitStage, Stage
from pavdit.train.trial import Trial

MAX_BATCH = 8
"""Of an update that is tried as a graph without being asked for: in larger ones the launches do not show."""

LEAST_GAIN = 0.05

SHAPES = 12
"""Graphs that are kept: six lengths of text, with and without a mask."""


def descend(
    descent: Descent, loss: Loss, parts: Sequence[Part], step: int, train: LoopConfig, *, averaged: bool
) -> dict[str, Tensor]:
    """Gradients of all parts, then one step.

    Args:
        descent: of what `loss` trains; its rate is set.
        loss: terms of a part.
        parts: one after another.
        step: the update's number, from 0.
        train: dtype and seed.
        averaged: whether the backward pass leaves gradients that are means over the ranks already.

    Returns:
        Means of the terms over the parts, and ``gradient_norm``; empty where `loss` has no terms at `step`.
    """
    device, means = descent.refused.device, dict[str, Tensor]()
    for part in parts:
        _seed(train.seed, step, part)
        with synchronised(loss, part is parts[-1]):
            with _autocast(device, train):
                terms = loss(step, part)
            if not terms:
                return {}
            (terms["loss"] / len(parts)).backward()
        for term, value in terms.items():
            share = value.detach() / len(parts)
            means[term] = means[term] + share if term in means else share
    if not averaged:
        average_gradients(descent.parameters)
    means = mean_over_ranks(means)
    means["gradient_norm"] = descent.step(means["loss"])
    return means


class GraphedUpdate:
    """The generator's update as one CUDA graph a shape of its inputs: forward and backward pass, clip, AdamW
    and the average. Rates, times, noise and masks are drawn outside and copied in.

    The warm-ups of a capture see inputs that are not numbers, so they are refused as any such update is, and
    change neither weights nor moments nor the average.

    Args:
        train: what was asked for.
        stage: what is trained.
        parts: those of this rank.
        descent: of the model; its rate is set before an update.
        ema: the average.
        capture: how to capture, on any device; None: as CUDA graphs.
        trial: how to time; None: by events of the device.

    Attributes:
        state: whether updates are graphs, and why.

    Raises:
        ConfigError: graphs were asked for and cannot be.
    """

    def __init__(
        self,
        train: LoopConfig,
        stage: Stage,
        parts: Sequence[Part],
        descent: Descent,
        ema: Ema,
        capture: Capture | None = None,
        trial: Trial | None = None,
    ) -> None:
        self.train, self.stage, self.parts, self.descent, self.ema = train, stage, parts, descent, ema
        self.graphs: Graphs | None = None
        self.trial: Trial | None = None
        self.graphed = self.captured = False
        anywhere = capture is not None or descent.refused.device.type == "cuda"
        obstacle = self._obstacle() if anywhere else "no CUDA"
        if obstacle and train.graph is True:
            raise ConfigError(f"train.graph: want auto or off, got on with {obstacle}")
        if obstacle or train.graph is False:
            self.state = Switch(False, "as asked" if train.graph is False else obstacle)
            return
        self.graphs = Graphs(SHAPES, capture)
        if train.graph is True:
            self.state = Switch(True, "as asked")
        else:
            self.state, self.trial = Switch(False, "tried after the first updates"), trial or Trial()

    def _obstacle(self) -> str:
        """Why there can be no graph; empty where there can."""
        if self.stage.adversary is not None:
            return "discriminators"
        if not isinstance(self.stage, SplitStage):
            return "a loss that draws"
        if is_parallel():
            return "several ranks"
        if len(self.parts) > 1:
            return f"accumulate {len(self.parts)}"
        if self.train.batch_size > MAX_BATCH and self.train.graph is not True:
            return f"batch {self.train.batch_size}, of which launches are a small part"
        return ""

    def __call__(self, step: int) -> dict[str, Tensor] | None:
        """Update `step` as a graph; None: it is to be done op by op.

        Returns:
            The terms, ``gradient_norm``, ``refused`` and ``norms``, which no later update changes.
        """
        self.graphed = self.captured = False
        wanted = self.trial is None or self.trial.graphed
        if self.graphs is None or not wanted or not isinstance(self.stage, SplitStage):
            return None
        inputs, captures = self.stage.inputs(step, self.parts[0]), self.graphs.captures
        try:
            update = self.graphs.get(
                "update", partial(self._apply, self.stage), inputs, partial(_no_numbers, inputs)
            )
        except RuntimeError as error:  # no memory for it, or an op that no graph holds
            if self.train.graph is True:
                raise
            self.descent.module.zero_grad(set_to_none=True)
            self._decide(False, str(error).partition("\n")[0])
            return None
        self.graphed, self.captured = True, self.graphs.captures > captures
        update.replay()
        return {name: result.clone() for name, result in update.results.items()}

    def _apply(self, stage: SplitStage, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `descend` does of a single part, and the average: nothing here asks the host."""
        with _autocast(self.descent.refused.device, self.train):
            terms = stage.objective(inputs)
        terms["loss"].backward()
        results = {name: value.detach() for name, value in terms.items()}
        results["gradient_norm"] = self.descent.step(results["loss"])
        self.ema.update(stage.model, self.descent.refused)
        return results | {"refused": self.descent.refused, "norms": self.descent.norms}

    def queued(self) -> None:
        """The update, of either kind, is on its way; decide between them if it is time."""
        if self.trial is None:
            return
        self.trial.mark(self.graphed, self.captured)
        share = self.trial.share()
        if share is not None:
            self._decide(share <= 1.0 - LEAST_GAIN, f"it takes {share:.0%} of the time op by op")

    def _decide(self, on: bool, why: str) -> None:
        self.state, self.trial = Switch(on, why), None
        if not on:
            self.graphs = None


def _autocast(device: torch.device, train: LoopConfig) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=train.dtype == "bfloat16")


def _no_numbers(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NaN wherever one can be."""
    return {
        name: torch.full_like(value, torch.nan) if value.is_floating_point() else value
        for name, value in inputs.items()
    }


def _seed(seed: int, step: int, part: Part) -> None:
    """Whatever a loss draws from torch's own generators depends on seed, step and part alone."""
    [state] = np.random.SeedSequence([seed, step, part.index, part.rank]).generate_state(1)
    torch.manual_seed(int(state))
