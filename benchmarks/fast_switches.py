"""The fast switches in the sampler's benchmark: what each saves, and its error against exact."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import median

import torch
from torch import Tensor

from benchmarks.columns import Job, random_pipeline
from benchmarks.counting import now
from pavdit.agreement import Agreement
from pavdit.flow.step_cache import StepCache
from pavdit.pipeline import Pipeline
from pavdit.runtime import DtypeName, Settings
from pavdit.sampling import BoundVelocity, sample_batch

FAST_INTERVAL = (0.2, 0.8)
"""Times with guidance of the row that measures the guidance interval."""


def fast_rows(job: Job, dtype: DtypeName, rounds: int) -> dict[str, dict[str, object]]:
    """Time and error of the fast switches, one at a time and together, against exact on the same noise."""
    low, high = FAST_INTERVAL
    interval = replace(job, options=replace(job.options, guidance_interval=FAST_INTERVAL))
    cache = replace(job, options=replace(job.options, step_cache=StepCache()))
    ways: dict[str, tuple[Settings, Job]] = {
        "exact": ({}, job),
        "fp8": ({"fp8": True}, job),
        "absorbed": ({"absorbed": True}, job),
        "fast": ({"tier": "fast"}, job),
        f"guidance {low:g}-{high:g}": ({}, interval),
        f"step cache {StepCache()}": ({}, cache),
        "all": (
            {"tier": "fast"},
            replace(interval, options=replace(interval.options, step_cache=StepCache())),
        ),
    }
    noise, short = job.noise(), replace(job.options, num_steps=2)
    pipes = {name: random_pipeline(job, dtype=dtype, **settings) for name, (settings, _) in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    latents: dict[str, Tensor] = {}
    for name in ways:
        _sample(pipes[name], replace(job, options=short), noise)
    for _ in range(rounds):
        for name, (_, own) in ways.items():
            begin = now(job.device)
            latents[name] = _sample(pipes[name], own, noise)
            seconds[name].append(now(job.device) - begin)
    rows: dict[str, dict[str, object]] = {}
    for name, runs in seconds.items():
        pipe, exact = pipes["exact"], latents["exact"]
        error = Agreement.of(pipe.codec, pipe.layout, latents[name], exact)
        ratio = median(seconds["exact"]) / median(runs)
        print(f"{name:<30}{median(runs) / job.batch:9.4f} s {ratio:5.2f}x exact   {error}", flush=True)
        stats = {switch: pipes[name].stats[switch] for switch in ("fp8", "absorbed")}
        rows[name] = {"median": median(runs) / job.batch, **asdict(error), **stats}
    return rows


@torch.no_grad()
def _sample(pipe: Pipeline, job: Job, noise: Tensor) -> Tensor:
    """P of the job's options; a switch is measured as it is, also on text that it leaves alone by default."""
    assert pipe.networks is not None  # noqa: S101 (it has a generator)
    velocity = BoundVelocity(pipe.networks.short, job.captions(), job.options, fps=float(job.config.clip.fps))
    return sample_batch(velocity, noise, target=None, graphs=pipe.graphs)
