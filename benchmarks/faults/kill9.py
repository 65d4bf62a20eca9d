"""Does a run survive `kill -9` at any moment?

    python benchmarks/faults/kill9.py --kills 100

A run that saves at every step is killed at a random moment of its life, resumed, and killed again. After
every kill the newest checkpoint must verify and be right: its files are equal, byte for byte, to what a run
that was never killed has in memory at that step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.faults.runs import check, nano_run, start, work_folder
from pavdit.config import RunConfig
from pavdit.files import FileRecord, tensors_record
from pavdit.train.checkpoint import Checkpoint, latest

STEPS_OF_A_LIFE = 4
"""A process is killed at a random moment in about as many steps, once it has saved twice."""


def _endless(folder: Path) -> RunConfig:
    return nano_run(folder, num_steps=10**6, checkpoint_every=1, keep_checkpoints=3, log_every=10**6)


def _digests(config: RunConfig, steps: int, answer: multiprocessing.queues.Queue) -> None:  # type: ignore[type-arg]
    from rich.console import Console

    from pavdit.train.autoencoder import AutoencoderStage
    from pavdit.train.trainer import Trainer

    torch.set_num_threads(1)
    torch.manual_seed(config.train.seed)
    config, stage = AutoencoderStage.open(config, torch.device("cpu"), Console(quiet=True))
    trainer = Trainer(config, stage)
    records: list[dict[str, FileRecord]] = []
    for _ in range(steps):
        trainer.update()
        records.append({f"{stem}.safetensors": tensors_record(t) for stem, t in trainer.tensors().items()})
    answer.put(records)


def digests(config: RunConfig, steps: int) -> list[dict[str, FileRecord]]:
    """What the tensor files of steps 1, 2, … are in a run that is never killed."""
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_digests, args=(config, steps, answer))
    process.start()
    records = answer.get()
    process.join()
    return list(records)


def _wait_for_a_save(folder: Path, process: BaseProcess) -> float:
    """Returns when a checkpoint of another name is there: then."""
    before = sorted(folder.glob("step-*"))
    while process.is_alive() and sorted(folder.glob("step-*")) == before:
        time.sleep(0.001)
    return time.monotonic()


def kill(folder: Path, kills: int, seed: int = 0) -> tuple[list[str], int, int]:
    """Train and kill; returns what is wrong, how many kills left a half-written checkpoint, the last step."""
    config, draw = _endless(folder), random.Random(seed)
    newest: list[Checkpoint | None] = []
    faults, saving = [], 0
    for number in range(kills):
        [process] = start([(config, "auto")])
        begun = _wait_for_a_save(folder, process)
        step_seconds = _wait_for_a_save(folder, process) - begun
        time.sleep(draw.uniform(0, STEPS_OF_A_LIFE * step_seconds))
        process.kill()
        process.join()
        saving += any(folder.glob(".tmp-step-*"))
        found, damaged = latest(folder)
        if damaged:
            faults.append(f"kill {number}: damaged {', '.join(path.name for path in damaged)}")
        newest.append(found)
    steps = [0 if found is None else found.step for found in newest]
    right = digests(config, steps[-1])
    for number, (found, before) in enumerate(zip(newest, [0, *steps], strict=False)):
        step = steps[number]
        if step < before:
            faults.append(f"kill {number}: the newest checkpoint went back from step {before} to {step}")
        elif found is not None:
            wrong = [name for name, record in right[step - 1].items() if found.files[name] != record]
            if wrong:
                faults.append(f"kill {number}: step {step} has other {', '.join(wrong)}")
    return faults, saving, steps[-1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    options = parser.parse_args()
    faults, saving, step = kill(work_folder(options.folder) / "run", options.kills, options.seed)
    print(f"{options.kills} kills up to step {step}, {saving} of them in the middle of a save")
    return check(faults, options.kills - len(faults), "newest checkpoints load and are right")


if __name__ == "__main__":
    sys.exit(main())
