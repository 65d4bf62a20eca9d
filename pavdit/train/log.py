"""What a run says: JSON lines in its directory, and a progress bar or a line now and then."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from pavdit.config import LoopConfig
from pavdit.progress import QUIET_SECONDS
from pavdit.train.board import Board
from pavdit.train.ranks import is_first
from pavdit.train.shown import Shown, write_shown


def progress_console() -> Console:
    """Where progress goes: stderr, unbroken lines where it is no terminal; the first rank speaks for all."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty(), quiet=not is_first())


class Window:
    """Means of the terms since the last line of the log, of applied updates; summed on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor], refused: Tensor) -> None:
        """Count an update; one that was refused (1.0) does not count."""
        for name, value in terms.items():
            value = torch.where(refused.bool(), 0.0, value)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0.0) + (1.0 - refused)

    def means(self) -> dict[str, float]:
        """Waits for the device; empty where no update was applied."""
        counts = {name: count.item() for name, count in self.counts.items()}
        return {name: value.item() / counts[name] for name, value in self.sums.items() if counts[name]}


class Log:
    """Writes ``log.jsonl`` in the run directory and tells the console."""

    def __init__(self, train: LoopConfig, console: Console) -> None:
        self.console, self.printed = console, -math.inf
        self.stage, self.run_dir = train.stage, train.run_dir
        self.file = (train.run_dir / "log.jsonl" if is_first() else Path(os.devnull)).open("a")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.progress.add_task(train.stage, total=train.num_steps)
        self.board = Board(train.run_dir) if train.tensorboard and is_first() else None

    def __enter__(self) -> Log:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.file.close()
        if self.board is not None:
            self.board.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()

    def event(self, name: str, step: int, **values: Any) -> None:  # noqa: ANN401 (JSON)
        """Something that happened at a step."""
        if self.board is not None:
            self.board.scalars(
                step, {f"{name}/{key}": v for key, v in values.items() if isinstance(v, float)}
            )
        self._write({"event": name, "step": step} | values)
        self.console.print(f"{name} at step {step}" + (": " if values else "") + _words(values))

    def terms(self, step: int, seconds: float, means: Mapping[str, float]) -> None:
        """Means of the loss's terms up to a step."""
        self._write({"step": step, "seconds": round(seconds, 3)} | dict(means))
        if self.board is not None:
            self.board.scalars(step, {f"train/{name}": value for name, value in means.items()})
        words = f"loss {means['loss']:.4f}"
        self.progress.update(self.task, completed=step, description=f"{self.stage} {words}")
        if not self.console.is_terminal and time.monotonic() - self.printed > QUIET_SECONDS:
            self.printed = time.monotonic()
            self.console.print(f"step {step}: {words}, {seconds:.0f} s")

    def shown(self, step: int, shown: Shown) -> None:
        """Pictures and clips, as files and on the board."""
        write_shown(shown, self.run_dir / "shown" / f"step-{step:08d}")
        if self.board is not None:
            self.board.shown(step, shown)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
