"""Seconds a sample, stage by stage, beside the same network in plain PyTorch: python benchmarks/sampler.py.

Columns: ``eager`` is the network with every op in plain PyTorch; ``peer`` the same, its blocks and its
decoder tuned by Inductor (on CUDA max-autotune with CUDA graphs); ``ours`` the pipeline as it ships. All
three run in one process, interleaved, on random weights and random latents.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.columns import STAGES, TEXT_TOKENS, Column, Job, bind, columns, generate, plain_pytorch, run
from benchmarks.counting import Dispatches, kernels
from benchmarks.fast_switches import fast_rows
from benchmarks.floor import Watch
from benchmarks.harness import header, results_path, write
from pavdit.config import PRESETS
from pavdit.options import SamplingOptions
from pavdit.runtime import TIERS
from pavdit.train.models import choose_device


@torch.no_grad()
def step_facts(found: dict[str, Column], job: Job, noise: Tensor) -> dict[str, float]:
    """Dispatched ops (on CUDA also kernels) and flops of a step, and the time of its parts at their best."""
    facts: dict[str, float] = {}
    guided = job.options.guided
    for name in ("eager", "ours"):
        velocity = bind(found[name], job)
        with found[name].ops(), Dispatches() as mode:
            velocity(noise, 0.0, guided)
        facts[f"dispatched_{name}"] = mode.count
        if job.device.type == "cuda":
            facts[f"kernels_{name}"] = kernels_of_a_step(found[name], job, noise)
    velocity = bind(found["eager"], job)
    with plain_pytorch():
        with FlopCounterMode(display=False) as flops:
            velocity(noise, 0.0, guided)
        with Watch() as watch:
            velocity(noise, 0.0, guided)
    facts["step_gflop"] = flops.get_total_flops() / 1e9
    facts["gemm_gflop"] = watch.work.gemm_gflop()
    return facts | watch.work.seconds(found["eager"].pipe.runtime.dtype, job.device)


def kernels_of_a_step(column: Column, job: Job, noise: Tensor) -> int:
    """On CUDA: what a sample of two steps launches beyond one of one step."""
    found = []
    for steps in (1, 2):
        short = replace(job, options=replace(job.options, num_steps=steps))
        with column.ops():
            found.append(kernels(lambda short=short: generate(column, short, noise)))
    return found[1] - found[0]


def main() -> None:
    """Measure and print; --json writes everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--preset", choices=PRESETS, default="medium")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--text", type=int, default=TEXT_TOKENS, help="text tokens")
    parser.add_argument(
        "--tier", choices=TIERS, default="exact", help="fast: also every fast switch, with time and error"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="a file, or a folder of results with -", metavar="FILE")
    parser.add_argument(
        "--profile",
        type=Path,
        help="write a Chrome trace of two steps, decode and inverse of ours",
        metavar="FILE",
    )
    parser.add_argument(
        "--no-peer", action="store_true", help="leave Inductor out, which compiles for minutes"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    config = PRESETS[options.preset]()
    sampling = SamplingOptions.of(config.flow, "t2av", {"steps": options.steps, "guidance": options.guidance})
    job = Job(config, options.batch, sampling, device, options.text)
    asked = {
        k: getattr(options, k)
        for k in ("preset", "batch", "steps", "guidance", "dtype", "text", "tier", "rounds")
    }
    facts = header(device.type) | asked
    print(" | ".join(f"{key} {value}" for key, value in facts.items()), flush=True)

    found, noise = columns(job, options.dtype), job.noise()
    if options.no_peer:
        del found["peer"]
    short = replace(job, options=replace(sampling, num_steps=2))
    for column in found.values():  # compiles, and touches every weight
        run(column, short, noise)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in found}
    name = f"sampler-{options.preset}-batch{options.batch}-guidance{options.guidance:g}"
    path = results_path(options.json, name, device.type)
    for _ in range(options.rounds):
        for name, column in found.items():
            samples[name].append(run(column, job, noise))
        facts |= {"stats": found["ours"].pipe.stats, "rows": table(samples, job)}
        write(path, facts)  # after every round: what is measured is kept, whatever happens next
    facts["step"] = step_facts(found, job, noise)
    print(lines(facts["rows"], job), summary(facts["rows"], facts["step"], job), sep="\n", flush=True)
    write(path, facts)
    if options.tier == "fast":
        facts["fast"] = fast_rows(job, options.dtype, options.rounds)
        write(path, facts)
    if options.profile:
        profile_to(options.profile, found["ours"], short, noise)


def profile_to(path: Path, column: Column, job: Job, noise: Tensor) -> None:
    """A Chrome trace of a sample of few steps, and beside it the costliest ops as text."""
    with torch.profiler.profile() as profile:
        run(column, job, noise)
    profile.export_chrome_trace(str(path))
    order = f"self_{job.device.type}_time_total"
    text = path.with_suffix(".txt")
    text.write_text(profile.key_averages().table(sort_by=order, row_limit=40) + "\n")
    print(f"trace: {path}, its costliest ops: {text}")


def table(samples: dict[str, list[dict[str, float]]], job: Job) -> dict[str, dict[str, dict[str, float]]]:
    """Median and 95th percentile of seconds a sample, by stage and column."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for stage in STAGES:
        rows[stage] = {}
        for name, runs in samples.items():
            seconds = [one[stage] / job.batch for one in runs]
            p95 = quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
            rows[stage][name] = {"median": median(seconds), "p95": p95}
    return rows


def lines(rows: dict[str, dict[str, dict[str, float]]], job: Job) -> str:
    """The table for people."""
    text = f"{'s/sample':<12}" + "".join(f"{name + ' median':>16}{'p95':>9}" for name in rows[STAGES[0]])
    for stage, row in rows.items():
        ours = row["ours"]["median"]
        against = (f"{one['median'] / ours:.2f}x {name}" for name, one in row.items() if name != "ours")
        cells = "".join(f"{one['median']:16.4f}{one['p95']:9.4f}" for one in row.values())
        text += f"\n{stage:<12}{cells}   {', '.join(against)}"
    return text


def summary(rows: dict[str, dict[str, dict[str, float]]], step: dict[str, float], job: Job) -> str:
    """What bounds the generator, and how near it is."""
    ours, eager = (rows["generator"][name]["median"] * job.batch for name in ("ours", "eager"))
    gemms = step["gemm_seconds"] * job.options.num_steps
    floor = step["step_gflop"] * job.options.num_steps / step["peak_gflop_per_s"]
    alone = (step["gemm_seconds"] + step["attention_seconds"]) * job.options.num_steps
    on_device = ""
    if "kernels_ours" in step:
        on_device = f", kernels ours {step['kernels_ours']:.0f}, eager {step['kernels_eager']:.0f}"
    return (
        f"a step: {step['step_gflop']:.1f} GFLOP, GEMMs {step['gemm_gflop']:.1f}; dispatched ops ours "
        f"{step['dispatched_ours']:.0f}, eager {step['dispatched_eager']:.0f} "
        f"({step['dispatched_ours'] / step['dispatched_eager']:.0%})"
        f"{on_device}\n"
        f"generator: GEMMs alone {gemms:.3f} s = {gemms / eager:.0%} of eager, {gemms / ours:.0%} of ours, "
        f"so at most {eager / gemms:.2f}x eager; floor {floor:.3f} s at {step['peak_gflop_per_s']:.0f} "
        f"GFLOP/s (the best of these GEMMs), {floor / ours:.0%} reached; ours takes {ours / alone:.2f}x "
        "its GEMMs and attention, each at its best"
    )


if __name__ == "__main__":
    main()
