"""Seconds an update of either stage, beside the same update in plain PyTorch: python benchmarks/training.py.

Columns: ``eager`` is the network with every op in plain PyTorch; ``peer`` the same, its layers tuned by
Inductor (on CUDA max-autotune with CUDA graphs); ``ours`` the trainer as it ships, on
CUDA its update as one graph where that is faster. Each does all of `Trainer.update`: draws, cached latents or
decoded clips, forward and backward pass, clip, fused AdamW, average. They take turns on the same weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.columns import TEXT_TOKENS, plain_pytorch
from benchmarks.counting import Dispatches, forward_flops, kernels, now
from benchmarks.harness import Times, header, matmul_speed, results_path, write
from benchmarks.updates import Column, columns, stage_of
from pavdit.config import PRESETS, DataConfig, RunConfig, TrainConfig
from pavdit.runtime import DTYPES
from pavdit.train.models import choose_device

UPDATES = {"cpu": 1, "cuda": 10}
"""Timed together, as the loop queues them: the host reads what it needs one update later."""

WARM_UPS = 1
"""Beside the updates whose ops are counted."""


def run_config(options: argparse.Namespace, folder: Path) -> RunConfig:
    """A run of the preset with the shipped settings of the optimiser."""
    model = PRESETS[options.preset]()
    text = {"class_names": ("benchmark",), "tokens_per_class": options.text, "encoder": "classes"}
    return RunConfig(
        model=model.model_copy(update={"text": model.text.model_copy(update=text)}),
        data=DataConfig(kind="bounce", num_clips=2 * options.batch),
        train=TrainConfig(
            stage=options.stage,
            run_dir=folder / "run",
            autoencoder=folder if options.stage == "generator" else None,
            num_steps=10**6,
            batch_size=options.batch,
            accumulate=options.accumulate,
            gradient_checkpointing=options.recompute,
            dtype=options.dtype,
            device=options.device,
        ),
    )


def warm_up(found: dict[str, Column], device: torch.device) -> dict[str, str]:
    """Compile, allocate, and have a graph tried; returns why a column that cannot compute does not.

    What the peer cannot do is no failure of the benchmark, and is said.
    """
    failed = {}
    for name, column in list(found.items()):
        try:
            column.updates(WARM_UPS)
            while column.trainer.graph.trial is not None:
                column.updates(1)
        except Exception as error:
            if name != "peer":
                raise
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            column.trainer.stage.model.zero_grad(set_to_none=True)
            del found[name]
        now(device)
    return failed


def step_facts(found: dict[str, Column], device: torch.device) -> dict[str, float]:
    """Ops that an update dispatches (on CUDA also kernels), and flops of its network's forward pass."""
    facts: dict[str, float] = {}
    for name in ("eager", "ours"):
        with Dispatches() as mode:
            found[name].updates(1)
        facts[f"dispatched_{name}"] = mode.count
        if device.type == "cuda":
            facts[f"kernels_{name}"] = kernels(lambda name=name: found[name].updates(1))
    stage = found["eager"].trainer.stage
    parts = found["eager"].trainer.parts
    with plain_pytorch(), torch.no_grad():
        facts["forward_gflop"] = len(parts) * forward_flops(lambda: stage.loss(0, parts[0])) / 1e9
    return facts


def main() -> None:
    """Measure and print; --json writes everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--preset", choices=PRESETS, default="medium")
    parser.add_argument("--stage", choices=("generator", "autoencoder"), default="generator")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch, one after another")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16")
    parser.add_argument("--text", type=int, default=TEXT_TOKENS, help="text tokens")
    parser.add_argument("--recompute", action="store_true", help="train.gradient_checkpointing")
    parser.add_argument("--rounds", type=int, default=5, help="at least 2")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="a file, or a folder of results with -", metavar="FILE")
    parser.add_argument(
        "--no-peer", action="store_true", help="leave Inductor out, which compiles for minutes"
    )
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds: want at least 2, got {options.rounds}")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    names = ("preset", "stage", "batch", "accumulate", "dtype", "text", "recompute", "rounds")
    asked = {name: getattr(options, name) for name in names}
    facts = header(device.type) | asked
    print(" | ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    name = f"training-{options.stage}-{options.preset}-batch{options.batch}-{options.dtype}"
    path = results_path(options.json, name, device.type)
    with tempfile.TemporaryDirectory() as folder:
        config = run_config(options, Path(folder))
        found = columns(config, stage_of(config, device, Path(folder)), not options.no_peer)
        facts["failed"] = warm_up(found, device)
        facts["graph"] = str(found["ours"].trainer.graph.state)
        step = step_facts(found, device)
        peaks = [matmul_speed(device.type, DTYPES[options.dtype])]
        step["matmul_gflop_per_s"] = peaks[0] / 1e9
        facts["step"] = step
        seconds: dict[str, list[float]] = {name: [] for name in found}
        for done in range(1, options.rounds + 1):
            for name, column in found.items():
                seconds[name].append(column.seconds(UPDATES[device.type], device))
            if done > 1:
                facts["rounds"] = done
                facts["rows"] = table(seconds, options.batch, step)
                write(path, facts)  # after every round: what is measured is kept, whatever happens next
    peaks.append(matmul_speed(device.type, DTYPES[options.dtype]))  # the machine may have been disturbed
    step["matmul_gflop_per_s"] = max(peaks) / 1e9
    facts["rows"] = table(seconds, options.batch, step)
    write(path, facts)
    print(lines(facts), flush=True)


def table(
    seconds: Mapping[str, list[float]], batch: int, step: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Times of an update, clips a second, and the share of the machine's matrix product that its flops reach:
    three forward passes' (Kaplan et al., arXiv 2001.08361, 2.1)."""
    rows = {}
    for name, rounds in seconds.items():
        times = Times.of(rounds)
        used = 3e3 * step["forward_gflop"] / times.median_ms / step["matmul_gflop_per_s"]
        clips = {"clips_per_second": round(1e3 * batch / times.median_ms, 4)}
        rows[name] = asdict(times) | clips | {"utilisation": round(used, 4)}
    return rows


def lines(facts: Mapping[str, Any]) -> str:
    """The table for people."""
    rows, step = facts["rows"], facts["step"]
    eager = rows["eager"]["median_ms"]
    text = f"{'':8}{'s/step':>10}{'p10':>10}{'p90':>10}{'clips/s':>10}{'of peak':>9}{'x eager':>9}"
    for name, row in rows.items():
        times = "".join(f"{row[key] / 1e3:10.4f}" for key in ("median_ms", "p10_ms", "p90_ms"))
        of_peak, gain = f"{row['utilisation']:9.1%}", f"{eager / row['median_ms']:9.2f}"
        text += f"\n{name:8}{times}{row['clips_per_second']:10.2f}{of_peak}{gain}"
    for name, why in facts["failed"].items():
        text += f"\n{name:8}cannot: {why}"
    on_device = ""
    if "kernels_ours" in step:
        on_device = f", kernels ours {step['kernels_ours']:.0f}, eager {step['kernels_eager']:.0f}"
    return (
        f"{text}\nan update: {3 * step['forward_gflop']:.1f} GFLOP at most {step['matmul_gflop_per_s']:.0f} "
        f"GFLOP/s; dispatched ops ours {step['dispatched_ours']:.0f}, eager {step['dispatched_eager']:.0f}"
        f"{on_device}; graph {facts['graph']}"
    )


if __name__ == "__main__":
    main()
