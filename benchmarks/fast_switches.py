"""The fast switches, one at a time and together: seconds a sample, and the error against exact.

``python -m benchmarks.fast_switches --preset xl --text 8 16 32``, or `benchmarks/sampler.py --tier fast`. All
ways take the same random weights and the same noise, in one process, interleaved. Weights that nobody trained
say how fast a way is; how far it is from exact they say only roughly, `pavdit generate --error` says it of
trained ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import median

import torch
from torch import Tensor

from benchmarks.columns import Job, random_pipeline
from benchmarks.counting import now
from benchmarks.harness import header, results_folder, write
from pavdit.agreement import Agreement
from pavdit.config import PRESETS
from pavdit.flow.graph import Graphs
from pavdit.flow.step_cache import StepCache
from pavdit.ops.scaled_linear import fp8_missing
from pavdit.options import SamplingOptions
from pavdit.pipeline import Pipeline
from pavdit.runtime import DtypeName
from pavdit.sampling import BoundVelocity, sample_batch
from pavdit.stdit import STDiT
from pavdit.stdit.fast import Networks
from pavdit.train.models import choose_device

INTERVAL = (0.2, 0.8)
"""Times with guidance of the row that measures the guidance interval."""


@dataclass(frozen=True)
class Way:
    """One way to sample.

    Attributes:
        network: the form of STDiT, whatever the text's length: a switch is measured as it is.
        job: what is made.
        graphs: its own, so that ways do not push each other's out.
    """

    network: STDiT
    job: Job
    graphs: Graphs | None

    @torch.no_grad()
    def sample(self, noise: Tensor, num_steps: int | None = None) -> Tensor:
        """P of the batch."""
        options = self.job.options
        options = options if num_steps is None else replace(options, num_steps=num_steps)
        fps = float(self.job.config.clip.fps)
        velocity = BoundVelocity(self.network, self.job.captions(), options, fps=fps)
        return sample_batch(velocity, noise, target=None, graphs=self.graphs)


def ways(pipe: Pipeline, job: Job) -> Iterator[tuple[str, Way]]:
    """Exact first. Where the device has no e4m3 product, ways with one are left out, which is said."""
    exact = pipe.generator.stdit  # type: ignore[union-attr]
    missing = fp8_missing(job.device) if job.device.type == "cuda" else ""
    if missing:
        print(f"without fp8: {missing}", flush=True)
    interval = {"guidance_interval": INTERVAL}
    cache = {"step_cache": StepCache()}
    rows = {
        "exact": (False, False, {}),
        "fp8": (True, False, {}),
        "absorbed": (False, True, {}),
        "fast": (True, True, {}),
        "guidance {:g}-{:g}".format(*INTERVAL): (False, False, interval),
        f"step cache {StepCache()}": (False, False, cache),
        "all": (True, True, {**interval, **cache}),
    }
    for name, (fp8, absorbed, options) in rows.items():
        if fp8 and missing:
            continue
        network = Networks.of(exact, fp8=fp8, absorbed=absorbed).short
        if pipe.runtime.compile.on and network is not exact:  # the exact one was compiled with the pipeline
            network.compile_blocks()
        own = replace(job, options=replace(job.options, **options))  # type: ignore[arg-type]
        yield name, Way(network, own, None if pipe.graphs is None else Graphs())


def fast_rows(job: Job, dtype: DtypeName, rounds: int) -> dict[str, dict[str, object]]:
    """Time and error of every way; prints the rows."""
    pipe, noise = random_pipeline(job, dtype=dtype), job.noise()
    found = dict(ways(pipe, job))
    seconds: dict[str, list[float]] = {name: [] for name in found}
    latents: dict[str, Tensor] = {}
    for way in found.values():
        way.sample(noise, num_steps=6)  # compiles, and captures what a step of each kind does
    for _ in range(rounds):
        for name, way in found.items():
            begin = now(job.device)
            latents[name] = way.sample(noise)
            seconds[name].append(now(job.device) - begin)
    rows: dict[str, dict[str, object]] = {}
    for name, runs in seconds.items():
        error = Agreement.of(pipe.codec, pipe.layout, latents[name], latents["exact"])
        ratio = median(seconds["exact"]) / median(runs)
        print(f"{name:<30}{median(runs) / job.batch:9.4f} s {ratio:5.2f}x exact   {error}", flush=True)
        rows[name] = {"median": median(runs) / job.batch, "rounds": runs, **asdict(error)}
    return rows


def main() -> None:
    """Measure for every length of text; --json keeps what is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="medium")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--text", type=int, nargs="+", default=[8, 16, 32], help="text tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", action="store_true", help="write into the folder of results")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    device, config = choose_device(asked.device), PRESETS[asked.preset]()
    options = SamplingOptions.of(config.flow, "t2av", {"steps": asked.steps, "guidance": asked.guidance})
    facts = header(device.type) | {k: v for k, v in vars(asked).items() if k not in ("json", "threads")}
    path = (
        results_folder(device.type) / f"fast-{asked.preset}-batch{asked.batch}.json" if asked.json else None
    )
    print(" | ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    for text in asked.text:
        print(f"{text} text tokens", flush=True)
        job = Job(config, asked.batch, options, device, text)
        facts[f"text {text}"] = fast_rows(job, asked.dtype, asked.rounds)
        write(path, facts)


if __name__ == "__main__":
    main()
