"""The training loop that both stages share."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from pavdit.config import RunConfig, TrainConfig
from pavdit.train import checkpoint as checkpoints
from pavdit.train.ema import Ema
from pavdit.train.optim import build_optimizer, learning_rate, load_optimizer_tensors, optimizer_tensors

MAX_NON_FINITE = 5
"""Updates in a row that may be skipped before the run stops."""

_QUIET_SECONDS = 15.0  # between lines where the output is no terminal


class NonFiniteError(ArithmeticError):
    """Loss or gradient stayed infinite or NaN; no such update was applied."""


class Stage(Protocol):
    """What is trained: a model, its loss and its validation.

    Attributes:
        model: float32 parameters on the run's device.
        frozen: file stem to tensors that training leaves as they are and every checkpoint carries.
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def frozen(self) -> Mapping[str, Mapping[str, Tensor]]: ...

    def loss(self, step: int) -> dict[str, Tensor]:
        """Terms of the loss of update `step`, to descend ``loss``. A pure function of weights and step."""

    def validate(self, model: Any) -> dict[str, float]:  # noqa: ANN401 (its own kind of model)
        """Measures of (averaged) weights."""


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


class Trainer:
    """Weights, average, optimiser and clock of a run: everything a checkpoint restores."""

    def __init__(self, config: RunConfig, stage: Stage) -> None:
        self.config, self.stage = config, stage
        self.ema = Ema(stage.model, config.train.ema_decay)
        self.optimizer = build_optimizer(stage.model, config.train)
        self.step, self.seconds, self.skipped = 0, 0.0, 0

    def restore(self, saved: checkpoints.Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: of another architecture.
        """
        part = self.config.train.stage
        checkpoints.require_architecture(saved, self.config.model, part)
        checkpoints.load_weights(self.stage.model, saved.tensors("model"), saved.path / "model.safetensors")
        checkpoints.load_weights(self.ema.model, saved.tensors("ema"), saved.path / "ema.safetensors")
        load_optimizer_tensors(self.optimizer, self.stage.model, saved.tensors("optimizer"))
        torch.set_rng_state(saved.tensors("random")["torch"])
        self.step, self.seconds = saved.step, saved.state["seconds"]
        self.ema.num_updates = saved.state["ema_updates"]

    def save(self) -> None:
        """Commit a checkpoint of this step, then drop the oldest."""
        run_dir, model = self.config.train.run_dir, self.stage.model
        if checkpoints.step_directory(run_dir, self.step).exists():
            return
        checkpoints.save(
            run_dir,
            self.step,
            tensors={
                "model": model.state_dict(),
                "ema": self.ema.model.state_dict(),
                "optimizer": optimizer_tensors(self.optimizer, model),
                "random": {"torch": torch.get_rng_state()},
            },
            state={
                "seconds": self.seconds,
                "ema_updates": self.ema.num_updates,
                "optimizer": self.optimizer.state_dict()["param_groups"],
            },
            config=self.config,
            linked={stem: run_dir / f"{stem}.safetensors" for stem in self.stage.frozen},
        )
        checkpoints.prune(run_dir, self.config.train.keep_checkpoints)

    def update(self) -> dict[str, Tensor]:
        """One update; returns the terms of the loss. A loss or gradient that is not finite changes nothing.

        Raises:
            NonFiniteError: `MAX_NON_FINITE` updates in a row were not finite.
        """
        train, model = self.config.train, self.stage.model
        device = next(model.parameters()).device
        rate = learning_rate(train, self.step, self.seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=train.dtype == "bfloat16"):
            terms = self.stage.loss(self.step)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), train.gradient_clip)
        finite = math.isfinite(norm.item()) and math.isfinite(terms["loss"].item())
        if finite:
            self.optimizer.step()
            self.ema.update(model)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped >= MAX_NON_FINITE:
            raise NonFiniteError(
                f"{train.run_dir}: want a finite loss and gradient, got {terms['loss'].item():g} and "
                f"{norm.item():g} in {MAX_NON_FINITE} updates in a row, the last at step {self.step}"
            )
        return {name: value.detach() for name, value in terms.items()} | {"gradient_norm": norm}


def progress_console() -> Console:
    """Where progress goes: stderr, unbroken lines where it is no terminal."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def fit(trainer: Trainer, console: Console | None = None) -> Outcome:
    """Train until the steps are done, the time is up, or a signal comes; save what was reached.

    Raises:
        NonFiniteError: see `Trainer.update`.
        OSError: a checkpoint or the log could not be written; the previous checkpoint is intact.
    """
    train, console = trainer.config.train, console or progress_console()
    outcome = Outcome(trainer.step)
    with _signals() as stop, _Log(train, console) as log:
        log.event("start", trainer.step, parameters=sum(p.numel() for p in trainer.stage.model.parameters()))
        window = _Window()
        while not stop.is_set() and trainer.step < train.num_steps and not _time_is_up(trainer):
            started = time.perf_counter()
            terms = trainer.update()
            trainer.seconds += time.perf_counter() - started
            if trainer.skipped:
                log.event("skipped", trainer.step)
            else:
                window.add(terms)
            done = trainer.step == train.num_steps or _time_is_up(trainer)
            if window.count and (done or trainer.step % train.log_every == 0):
                log.terms(trainer, window.means())
                window = _Window()
            if done or trainer.step % train.checkpoint_every == 0:
                trainer.save()
                outcome.metrics = trainer.stage.validate(trainer.ema.model)
                log.event("validation", trainer.step, **outcome.metrics)
        outcome.step, outcome.interrupted = trainer.step, stop.is_set()
        if not outcome.metrics and not outcome.interrupted:  # the run was finished before
            outcome.metrics = trainer.stage.validate(trainer.ema.model)
        if outcome.interrupted:
            trainer.save()
            log.event("interrupted", trainer.step)
    return outcome


def _time_is_up(trainer: Trainer) -> bool:
    limit = trainer.config.train.time_limit_seconds
    return limit is not None and trainer.seconds >= limit


class _Window:
    """Means of the terms since the last line of the log, of updates that were applied."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {name: value.item() / self.count for name, value in self.sums.items()}


class _Log:
    """JSON lines in the run directory, and a progress bar (without a terminal: a line now and then)."""

    def __init__(self, train: TrainConfig, console: Console) -> None:
        self.console, self.printed = console, -math.inf
        self.file = (train.run_dir / "log.jsonl").open("a")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.progress.add_task(train.stage, total=train.num_steps)

    def __enter__(self) -> _Log:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.file.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()

    def event(self, name: str, step: int, **values: float) -> None:
        self._write({"event": name, "step": step} | values)
        self.console.print(f"{name} at step {step}" + (": " if values else "") + _words(values))

    def terms(self, trainer: Trainer, means: dict[str, float]) -> None:
        rate = trainer.optimizer.param_groups[0]["lr"]
        self._write(
            {"step": trainer.step, "seconds": round(trainer.seconds, 3), "learning_rate": rate} | means
        )
        words = f"loss {means['loss']:.4f}"
        self.progress.update(
            self.task, completed=trainer.step, description=f"{trainer.config.train.stage} {words}"
        )
        if not self.console.is_terminal and time.monotonic() - self.printed > _QUIET_SECONDS:
            self.printed = time.monotonic()
            self.console.print(f"step {trainer.step}: {words}, {trainer.seconds:.0f} s")


def _words(values: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; the second one of a kind ends the process as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
