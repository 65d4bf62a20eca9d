"""The training loop that both stages share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console

from pavdit.train.log import Log, Window, progress_console
from pavdit.train.shown import write_shown
from pavdit.train.signals import stop_signals
from pavdit.train.trainer import Trainer


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
    """Train until the steps are done, the time is up, or a signal comes; save what was reached.

    Raises:
        NonFiniteError: see `Trainer.refusals`.
        OSError: a checkpoint or the log could not be written; the previous checkpoint is intact.
    """
    train, stage, console = trainer.config.train, trainer.stage, console or progress_console()
    outcome = Outcome(trainer.step)
    with stop_signals() as stop, Log(train, console) as log:
        log.event("start", trainer.step, parameters=sum(p.numel() for p in stage.model.parameters()))
        window = Window()

        def settle(behind: int) -> None:
            for refused in trainer.refusals(behind):
                log.event("skipped", refused.step, tensor=refused.tensor, clips=list(refused.clips))

        while not stop.is_set() and trainer.step < train.num_steps and not _time_is_up(trainer):
            started = time.perf_counter()
            window.add(*trainer.update())
            settle(behind=1)
            trainer.seconds += time.perf_counter() - started
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
                outcome.metrics = stage.validate(trainer.ema.model)
                log.event("validation", trainer.step, **outcome.metrics)
            if train.show_every is not None and (done or trainer.step % train.show_every == 0):
                write_shown(
                    stage.show(trainer.ema.model), train.run_dir / "shown" / f"step-{trainer.step:08d}"
                )
        settle(behind=0)
        outcome.step, outcome.interrupted = trainer.step, stop.is_set()
        if not outcome.metrics and not outcome.interrupted:  # the run was finished before
            outcome.metrics = stage.validate(trainer.ema.model)
        if outcome.interrupted:
            trainer.save()
            log.event("interrupted", trainer.step)
    return outcome


def _time_is_up(trainer: Trainer) -> bool:
    limit = trainer.config.train.time_limit_seconds
    return limit is not None and trainer.seconds >= limit
