"""From a configuration to a trained run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor

from pavdit.config import ConfigError, RunConfig
from pavdit.data.workers import worker_context
from pavdit.files import replace_with_text, tensors_record
from pavdit.train import checkpoint as checkpoints
from pavdit.train.adapted import require_adapter
from pavdit.train.adapter import AdapterStage
from pavdit.train.autoencoder import AutoencoderStage
from pavdit.train.checkpoint import Checkpoint, Run
from pavdit.train.generator import GeneratorStage
from pavdit.train.lock import run_lock
from pavdit.train.log import progress_console
from pavdit.train.loop import Outcome, fit
from pavdit.train.models import choose_device, with_dtype
from pavdit.train.ranks import joined, on_first
from pavdit.train.stage import Stage
from pavdit.train.trainer import Trainer
from pavdit.weights import find_weights


def run_training(config: RunConfig, resume: str = "auto", console: Console | None = None) -> Outcome:
    """Train our autoencoder, generator or its adapters; arguments and errors as for `train_system`."""
    opens: dict[str, OpenStage[RunConfig]] = {
        "autoencoder": AutoencoderStage.open,
        "generator": GeneratorStage.open,
        "adapter": AdapterStage.open,
    }
    return train_system(config, opens[config.train.stage], resume, console)


OpenStage = Callable[[Run, torch.device, Console], tuple[Run, Stage]]
"""Finds what a run trains on and builds what it trains; fills in what the configuration left to the clips."""


def train_system(
    config: Run, open_stage: OpenStage[Run], resume: str = "auto", console: Console | None = None
) -> Outcome:
    """Train as `config` says.

    Args:
        config: the run, of any system.
        open_stage: see `OpenStage`.
        resume: ``auto`` (latest checkpoint of the run directory, if any), ``never``, or a path.
        console: where progress goes; None is stderr.

    Raises:
        ConfigError: `resume` does not fit what the run directory holds.
        DataError: a clip or a checkpoint cannot be used.
        NonFiniteError: loss or gradient stayed non-finite.
        OSError: the disk is full, or another process trains in the run directory.
    """
    run_dir = config.train.run_dir
    if config.train.num_workers:
        worker_context()
    with joined(choose_device(config.train.device)) as device, ExitStack() as stack:
        console = console or progress_console()
        torch.manual_seed(config.train.seed)
        config = with_dtype(config, device)
        config, stage = open_stage(config, device, console)
        kind = type(config)
        on_first(lambda: stack.enter_context(run_lock(run_dir)))

        def prepare() -> Checkpoint[Run] | None:
            checkpoints.sweep(run_dir)
            saved = _resume_point(run_dir, resume, kind, console)
            if saved is not None:
                _require_frozen(saved, stage.frozen)
            return saved

        def require_same(saved: Checkpoint[Any]) -> Checkpoint[Any]:
            if isinstance(config, RunConfig) and config.adapter is not None:
                require_adapter(saved, config.adapter)
            return saved

        saved = on_first(prepare)
        trainer = Trainer(config, stage)
        if saved is not None:
            trainer.restore(require_same(saved))
            console.print(f"resuming {saved.path} at step {saved.step}")
        elif config.train.origin is not None:
            trainer.begin_second_stage(checkpoints.open_checkpoint(config.train.origin, kind))
        elif config.train.initial is not None:
            initial = checkpoints.open_checkpoint(find_weights(config.train.initial), kind)
            trainer.begin_with(require_same(initial))
            console.print(f"beginning with {trainer.initial['path']}, moments anew")
        written = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        on_first(lambda: replace_with_text(run_dir / "config.yaml", written))  # not where the run was refused
        return fit(trainer, console)


def _resume_point(run_dir: Path, resume: str, kind: type[Run], console: Console) -> Checkpoint[Run] | None:
    newest, damaged = checkpoints.latest(run_dir, kind)
    for path in damaged:
        console.print(f"{path}: damaged, set aside")
    checkpoints.set_aside(damaged)
    if resume == "auto":
        return newest
    saved = None if resume == "never" else checkpoints.open_checkpoint(Path(resume), kind)
    if saved is not None and "exported" in saved.state:
        raise ConfigError(
            f"--resume {resume}: want a run's own checkpoint, got exported weights, which have no optimiser"
        )
    start = saved.step if saved else 0
    if newest is not None and newest.step > start:
        raise ConfigError(
            f"--resume {resume}: want a run directory without later checkpoints (none is overwritten), "
            f"got {newest.path}"
        )
    return saved


def _require_frozen(saved: Checkpoint[Any], frozen: Mapping[str, Mapping[str, Tensor]]) -> None:
    """What training leaves as it is stays what it was when the run began."""
    for stem, tensors in frozen.items():
        if saved.files.get(f"{stem}.safetensors") != tensors_record(tensors):
            raise ConfigError(
                f"train.{stem}: want the {stem} that this run began with ({saved.path}), got another; "
                "a new one needs a new run_dir"
            )
