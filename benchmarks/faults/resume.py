"""Is a resumed run equal, to the bit, to one that did not stop?

    python benchmarks/faults/resume.py                       # everything: 20 cut points of 16 kinds of run
    python benchmarks/faults/resume.py --cuts 3 --ranks 2    # a part of it

Every kind of run (stage, loader's workers, accumulation, ranks) is trained once without stopping, with a
checkpoint at every step, and then resumed, by other processes, at each cut point. The files of the last
checkpoint must be equal byte for byte: weights, average, optimiser.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.faults.runs import EVERY_TASK, Job, check, nano_run, run_jobs, work_folder
from pavdit.config import RunConfig
from pavdit.train.checkpoint import open_checkpoint, step_directory

STEPS = 24

ELASTIC_TOLERANCE = 0.01
"""Of a loss; other clips differ by far more, another order of summation, 24 steps of Adam later, by less."""

STATE = (".safetensors", ".distcp")


def run_of(
    folder: Path,
    stage: str,
    workers: int,
    accumulate: int,
    ranks: int,
    steps: int,
    sharded: bool = False,
    **train: object,
) -> RunConfig:
    """A run of one kind; an autoencoder for generators lies in ``folder/autoencoder``."""
    options: dict[str, object] = {
        "num_steps": steps,
        "batch_size": 4 if accumulate * ranks <= 4 else accumulate * ranks,
        "accumulate": accumulate,
        "num_workers": workers,
        "final_learning_rate": 1e-4,
        "warmup_steps": 5,
        "ema_decay": 0.9,
        "checkpoint_every": steps,
        "log_every": steps,
    }
    if stage == "generator":
        options |= {"autoencoder": folder / "autoencoder", "tasks": EVERY_TASK}
    if sharded:
        options["sharded"] = True
    name = f"{stage}-{workers}-{accumulate}-{ranks}" + "-sharded" * sharded
    return nano_run(folder / name, stage, **(options | train))


def in_other(config: RunConfig, name: str, **train: object) -> RunConfig:
    """The same run in another directory, from the configuration that the first one wrote."""
    run_dir = config.train.run_dir.with_name(f"{config.train.run_dir.name}-{name}")
    return config.model_copy(update={"train": config.train.model_copy(update={"run_dir": run_dir, **train})})


def prepare(folder: Path, stage: str) -> None:
    """Train what a generator stands on."""
    if stage == "generator" and not (folder / "autoencoder").exists():
        run_jobs([(nano_run(folder / "autoencoder", checkpoint_every=4), "auto")])


def differences(
    folder: Path, stage: str, workers: int, accumulate: int, ranks: int, sharded: bool, steps: int, cuts: int
) -> list[str]:
    """What differs, one line a cut point; `cuts` of them, spread over the run."""
    prepare(folder, stage)
    straight = run_of(
        folder, stage, workers, accumulate, ranks, steps, sharded, checkpoint_every=1, keep_checkpoints=steps
    )
    run_jobs([(straight, "auto")], ranks)
    places = [1 + (steps - 2) * i // max(1, cuts - 1) for i in range(cuts)]
    jobs: list[Job] = []
    for place in places:
        start = str(step_directory(straight.train.run_dir, place))
        jobs.append((in_other(straight, f"cut-{place}", checkpoint_every=steps, log_every=1), start))
    run_jobs(jobs, ranks)
    want = open_checkpoint(straight.train.run_dir)
    found = []
    for config, _ in jobs:
        got = open_checkpoint(config.train.run_dir)
        state = [name for name in want.files if name.endswith(STATE)]
        bad = [name for name in state if got.files.get(name) != want.files[name]]
        if got.step != steps or bad:
            found.append(f"{config.train.run_dir.name}: step {got.step}, other {', '.join(bad)}")
    return found


def elastic(folder: Path, stage: str, steps: int) -> list[str]:
    """What differs between one rank all the time and 1 -> 2 -> 1 ranks: the loss of any step, by too much."""
    prepare(folder, stage)
    third = steps // 3
    alone = run_of(folder, stage, 0, 2, 1, steps, final_learning_rate=None, log_every=1)
    mixed = [in_other(alone, "elastic", num_steps=n) for n in (third, 2 * third, steps)]
    run_jobs([(alone, "auto"), (mixed[0], "auto")])
    run_jobs([(mixed[1], "auto")], 2)
    run_jobs([(mixed[2], "auto")])
    want, got = losses(alone.train.run_dir), losses(mixed[0].train.run_dir)
    if len(want) != steps or len(got) != steps:
        return [f"{stage}: want losses of {steps} steps, got {len(want)} and {len(got)}"]
    return [
        f"{stage}, step {k + 1}: {a:.6f} with one rank, {b:.6f} with changing ranks"
        for k, (a, b) in enumerate(zip(want, got, strict=True))
        if abs(a - b) > ELASTIC_TOLERANCE * abs(a)
    ]


def losses(run_dir: Path) -> list[float]:
    """Of every line of a run's log."""
    entries = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if "loss" in entry]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--stages", nargs="+", default=["autoencoder", "generator"])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sharded", action="store_true", help="generators on several ranks also sharded")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    options = parser.parse_args()
    folder, faults, done = work_folder(options.folder), [], 0
    kinds = itertools.product(
        options.stages,
        options.workers,
        options.accumulate,
        options.ranks,
        [False, True][: 1 + options.sharded],
    )
    for stage, workers, accumulate, ranks, sharded in kinds:
        if sharded and (stage != "generator" or ranks == 1):
            continue
        found = differences(folder, stage, workers, accumulate, ranks, sharded, options.steps, options.cuts)
        faults += found
        done += options.cuts - len(found)
        print(
            f"{stage}, {workers} workers, accumulate {accumulate}, {ranks} ranks{', sharded' * sharded}: "
            f"{options.cuts - len(found)} of {options.cuts} equal to the bit",
            flush=True,
        )
    if max(options.ranks) > 1:
        for stage in options.stages:
            found = elastic(folder, stage, options.steps)
            faults += found
            done += options.steps - len(found)
            same = options.steps - len(found)
            print(f"{stage}, 1 -> 2 -> 1 ranks: {same} of {options.steps} losses are those of one rank")
    return check(faults, done, "comparisons hold")


if __name__ == "__main__":
    sys.exit(main())
