"""Samples a second over the batch, ours beside eager PyTorch: a JSON and a picture.

Run python benchmarks/batch_sweep.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.columns import Column, Job, columns, run
from benchmarks.harness import header, results_folder, write
from pavdit.batching import is_out_of_memory
from pavdit.config import PRESETS
from pavdit.options import SamplingOptions
from pavdit.train.models import choose_device

BATCHES = {"cuda": (1, 2, 4, 8, 16, 32, 64), "cpu": (1, 2, 4, 8)}
COLOURS = {"ours": "#1f77b4", "eager": "#8c8c8c"}


def samples_per_second(column: Column, job: Job, rounds: int) -> float | None:
    """From noise to frames and sound; None: the batch does not fit into memory."""
    noise = job.noise()
    try:
        run(column, job, noise)
        return job.batch / median(run(column, job, noise)["end to end"] for _ in range(rounds))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def picture(path: Path, rows: list[dict[str, float | None]], title: str) -> None:
    """Both lines over the batch, with their values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, colour in COLOURS.items():
        points = [(row["batch"], row[name]) for row in rows if row[name] is not None]
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=name)
        above = 8 if name == "ours" else -16
        for batch, speed in points:
            axes.annotate(
                f"{speed:.3g}",
                (batch, speed),
                (0, above),
                textcoords="offset points",
                ha="center",
                color=colour,
            )
    axes.set(xscale="log", xlabel="batch", ylabel="samples a second")
    batches = [row["batch"] for row in rows]
    axes.set_xticks(batches, [f"{batch}" for batch in batches])
    axes.minorticks_off()
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure batch after batch; the JSON and the picture are written again after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--preset", choices=PRESETS, default="medium")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1 to 64 on CUDA, 1 to 8 on a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("-o", "--output", type=Path, help="a folder (default: the machine's results)")
    options = parser.parse_args()
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        sys.exit("batch_sweep: want matplotlib for the picture (pip install 'pavdit[bench]'), got none")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    config = PRESETS[options.preset]()
    sampling = SamplingOptions.of(config.flow, "t2av", {"steps": options.steps, "guidance": options.guidance})
    asked = {k: getattr(options, k) for k in ("preset", "steps", "guidance", "dtype", "rounds")}
    facts = header(device.type) | asked
    folder = options.output or results_folder(device.type)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"batch-sweep-{options.preset}"
    found = columns(Job(config, 1, sampling, device), options.dtype)
    rows: list[dict[str, float | None]] = []
    for batch in options.batches or BATCHES[device.type]:
        job = Job(config, batch, sampling, device)
        speeds = {name: samples_per_second(found[name], job, options.rounds) for name in COLOURS}
        rows.append({"batch": batch, **speeds})
        print(
            " | ".join(f"{key} {'no room' if v is None else f'{v:.4g}'}" for key, v in rows[-1].items()),
            flush=True,
        )
        write(stem.with_suffix(".json"), facts | {"samples_per_second": rows})
        title = f"{options.preset}, {options.steps} steps, guidance {options.guidance:g}, {options.dtype}\n"
        picture(stem.with_suffix(".png"), rows, title + f"{facts['machine']}, commit {facts['commit']}")
        if all(speed is None for speed in speeds.values()):
            break
    print(f"{stem}.json, {stem}.png")


if __name__ == "__main__":
    main()
