"""The training loop that both stages share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from torch import nn

from pavdit.train.log import Log, Window, progress_console
from pavdit.train.ranks import Agreement, on_first
from pavdit.train.signals import stop_signals
from pavdit.train.trainer import Trainer

T = TypeVar("T")


@dataclass(slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: updates done.
        interrupted: a signal ended it; the checkpoint is saved.
        metrics: measures of the last validation.
    """

    step: int
    interrupted: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


def fit(trainer: Trainer, console: Console | None = None) -> Outcome:
    """Train until the steps are done, the time is up, or a signal comes to any rank; save what was reached.

    Raises:
        NonFiniteError: see `Trainer.refusals`.
        OSError: a checkpoint or the log could not be written; the previous checkpoint is intact.
    """
    train, stage, console = trainer.config.train, trainer.stage, console or progress_console()
    outcome, clock = Outcome(trainer.step), trainer.seconds
    with stop_signals() as signalled, Log(train, console) as log:
        parameters = sum(p.numel() for p in stage.model.parameters())
        origins = {"first_stage": trainer.first_stage, "initial": trainer.initial}
        origin = {name: where for name, where in origins.items() if where}
        graph = trainer.graph.state
        log.event("start", trainer.step, parameters=parameters, graph=str(graph), **origin)
        window, agree = Window(), Agreement(trainer.seconds)

        def settle(behind: int) -> None:
            for refused in trainer.refusals(behind):
                log.event("skipped", refused.step, tensor=refused.tensor, clips=list(refused.clips))

        while not outcome.interrupted and trainer.step < train.num_steps and not _time_is_up(trainer):
            started = time.perf_counter()
            window.add(*trainer.update())
            if trainer.graph.state != graph:
                graph = trainer.graph.state
                log.event("graph", trainer.step, graph=str(graph))
            settle(behind=1)
            clock += time.perf_counter() - started
            outcome.interrupted, trainer.seconds = agree(signalled.is_set(), clock)
            done = trainer.step == train.num_steps or _time_is_up(trainer)
            save = done or trainer.step % train.checkpoint_every == 0
            if save:
                settle(behind=0)
            if done or trainer.step % train.log_every == 0:
                means = window.means()
                if means:
                    log.terms(trainer.step, trainer.seconds, means | trainer.rates())
                    window = Window()
            if save:
                trainer.save()
                outcome.metrics = _on_average(trainer, stage.validate)
                log.event("validation", trainer.step, **outcome.metrics)
            if train.show_every is not None and (done or trainer.step % train.show_every == 0):
                _on_average(trainer, lambda model: log.shown(trainer.step, stage.show(model)))
        agree.settle()
        settle(behind=0)
        outcome.step = trainer.step
        if not outcome.metrics and not outcome.interrupted:  # the run was finished before
            outcome.metrics = _on_average(trainer, stage.validate)
        if outcome.interrupted:
            trainer.save()
            log.event("interrupted", trainer.step)
    return outcome


def _on_average(trainer: Trainer, do: Callable[[nn.Module], T]) -> T:
    """Do it with the averaged weights, on the first rank."""
    average = trainer.averaged()
    return on_first(lambda: do(average))


def _time_is_up(trainer: Trainer) -> bool:
    limit = trainer.config.train.time_limit_seconds
    return limit is not None and trainer.seconds >= limit
