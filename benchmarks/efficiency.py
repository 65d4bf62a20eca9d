"""PAV-DiT's Table 3 as a run: seconds a training step and a sample of the systems, at one clip size.

``mm-diffusion`` works on pixels and samples. ``ours`` encodes the clips of its step and decodes its sample to
frames and sound; ``ours*`` has its latents cached and ends with latents, as the paper's PAV-DiT*. ``pvdm`` is
ours on latents of an encoder a stream (`pavdit.encoders`); its generator is that of ``ours*``. Weights are
random, reading files is left out, and all take turns in one process: python benchmarks/efficiency.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import updates
from benchmarks.columns import Column, Job, generate, nowhere_zero, random_pipeline, run
from benchmarks.harness import Call, Times, header, measure, results_path, write
from benchmarks.training import run_config
from pavdit.audio.mel import mel_images
from pavdit.baselines import find_system
from pavdit.clip import ClipSpec, frames_to_volume
from pavdit.config import PRESETS, ModelConfig, RunConfig, parse_as
from pavdit.data.bounce import BounceClips
from pavdit.options import SamplingOptions
from pavdit.train.models import choose_device
from pavdit.train.trainer import Trainer

TEXT_TOKENS = 8
NOT_YET = "not yet measured"
PUBLISHED = {
    "mm-diffusion": {"64": (1.70, 33.8), "128": (2.36, 90.0)},
    "mm-ldm": {"256": (0.46, 70.0)},
    "mm-ldm*": {"256": (0.38, 8.7)},
    "ours": {"256": (0.44, 17.7)},
    "ours*": {"256": (0.32, 3.93)},
}
"""PAV-DiT's Table 3: resolution to seconds a step, at batch 2, and a sample. Its hardware is not stated."""
PVDM = ("hw_self_attn", "mt_self_attn", "gcm_attn", "bi_block_attn", "kl")
"""What MDSA has and PVDM does not."""


@dataclass(frozen=True)
class Row:
    """A system, ready to work.

    Attributes:
        parameters: millions, by part.
        update: one step of training.
        sample: one sample.
        around: of how a sample is made.
    """

    parameters: dict[str, float]
    update: Call
    sample: Call
    around: str


def millions(module: nn.Module) -> float:
    """Parameters."""
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


def paired(config: ModelConfig) -> ModelConfig:
    """The same sizes with an encoder a stream that knows nothing of the other."""
    video, audio = (
        config.mdsa.model_copy(update={"streams": stream} | dict.fromkeys(PVDM, False))
        for stream in ("video", "audio")
    )
    return config.model_copy(update={"mdsa": video, "audio_mdsa": audio})


def latent_rows(
    config: RunConfig, options: argparse.Namespace, device: torch.device, folder: Path
) -> tuple[Row, Row]:
    """A latent system with its autoencoder, and without it."""
    model = config.model
    updating = updates.Column(Trainer(config, updates.stage_of(config, device, folder)), nullcontext)
    choices = SamplingOptions.of(model.flow, "t2av", {"steps": options.steps, "guidance": 1.0})
    job = Job(model, 1, choices, device, TEXT_TOKENS)
    sampling, noise = Column(random_pipeline(job, dtype=options.dtype), nullcontext), job.noise()
    encode = encoding(sampling, model, options.batch)

    def encoded_update() -> None:
        encode()
        updating.updates(1)

    generator = {"generator": millions(updating.trainer.stage.model)}
    autoencoder = {"autoencoder": millions(sampling.pipe.autoencoder)}
    around = f"{options.steps} Euler steps without guidance"
    return (
        Row(autoencoder | generator, encoded_update, lambda: run(sampling, job, noise), around),
        Row(generator, lambda: updating.updates(1), lambda: generate(sampling, job, noise), around),
    )


def encoding(column: Column, config: ModelConfig, batch: int) -> Callable[[], None]:
    """Clips of a step to the latents that a cache would hold."""
    codec, clips = column.pipe.codec, BounceClips(batch, config.clip)
    frames = torch.stack([clips[i].frames for i in range(batch)]).to(codec.device)
    waves = torch.stack([clips[i].wave for i in range(batch)]).to(codec.device)

    @torch.no_grad()
    def encode() -> None:
        images = mel_images(waves, config.clip, config.mel).to(codec.dtype)
        codec.autoencoder.latents_both_ways(frames_to_volume(frames).to(codec.dtype), images)

    return encode


def mm_diffusion_row(clip: ClipSpec, options: argparse.Namespace, device: torch.device, folder: Path) -> Row:
    """MM-Diffusion of the paper's shape, `options.mm_width` wide."""
    system = find_system("mm-diffusion", "efficiency")
    width = options.mm_width
    windows = {factor: min(factor if factor > 2 else 1, clip.num_frames) for factor in (2, 4, 8)}
    narrow = {"groups": min(32, width), "cross_head_dim": min(64, width)}
    unet = {"width": width, "cross_attention": windows} | narrow
    tree: dict[str, Any] = {
        "system": "mm-diffusion",
        "model": {"clip": asdict(clip), "unet": unet},
        "data": {"kind": "bounce", "num_clips": 2 * options.batch},
        "train": {
            "run_dir": folder / "mm-diffusion",
            "num_steps": 10**6,
            "batch_size": options.batch,
            "dtype": options.dtype,
            "device": str(device),
        },
    }
    config, stage = system.open_stage(parse_as(system.run, tree, "efficiency"), device, Console(quiet=True))
    nowhere_zero(stage.model)
    updating = updates.Column(Trainer(config, stage), nullcontext)
    updating.trainer.save()
    maker = system.load(config.train.run_dir, device, dtype=options.dtype)
    return Row(
        {"generator": millions(stage.model)},
        lambda: updating.updates(1),
        lambda: list(maker.stream(steps=options.mm_evaluations)),
        f"DPM-Solver of order 3, {options.mm_evaluations} evaluations",
    )


def main() -> None:
    """Measure and print; --json writes everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--preset", choices=PRESETS, default="small", help="of ours, and the clip of all")
    parser.add_argument("--mm-width", type=int, default=128, help="of MM-Diffusion (default: the paper's)")
    parser.add_argument("--mm-evaluations", type=int, default=20, help="of its net by its sampler")
    parser.add_argument("--batch", type=int, default=2, help="of a training step; a sample is one clip")
    parser.add_argument("--steps", type=int, default=30, help="of our sampler")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="a file, or a folder of results with -", metavar="FILE")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    clip = PRESETS[options.preset]().clip
    names = ("preset", "mm_width", "mm_evaluations", "batch", "steps", "dtype", "rounds")
    asked = {name: getattr(options, name) for name in names}
    size = f"{clip.num_frames} frames of {clip.height} x {clip.width}, {clip.num_samples} samples"
    facts = header(device.type) | asked | {"clip": size}
    print(" | ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    path = results_path(options.json, f"efficiency-{options.preset}", device.type)
    with tempfile.TemporaryDirectory() as root:
        found = rows_of(clip, options, device, Path(root))
        calls = {
            f"{name} {what}": getattr(row, what)
            for name, row in found.items()
            for what in ("update", "sample")
        }
        times = measure(calls, device.type, options.rounds)
    facts["rows"] = {name: row_facts(name, row, times, device.type) for name, row in found.items()}
    facts["published"] = {"source": "PAV-DiT, Table 3", "hardware": "not stated", "seconds": PUBLISHED}
    write(path, facts)
    print(table(facts["rows"], device.type), flush=True)  # type: ignore[arg-type]


def rows_of(
    clip: ClipSpec, options: argparse.Namespace, device: torch.device, folder: Path
) -> dict[str, Row]:
    """All systems, by name."""
    shared = {"stage": "generator", "accumulate": 1, "recompute": False, "text": TEXT_TOKENS}
    shipped = argparse.Namespace(**vars(options) | shared | {"device": str(device)})
    config = run_config(shipped, folder / "ours")
    pvdm = config.model_copy(update={"model": paired(config.model)})
    ours, alone = latent_rows(config, options, device, folder / "ours")
    return {
        "mm-diffusion": mm_diffusion_row(clip, options, device, folder),
        "pvdm": latent_rows(pvdm, options, device, folder / "pvdm")[0],
        "ours": ours,
        "ours*": alone,
    }


def row_facts(name: str, row: Row, times: dict[str, Times], device: str) -> dict[str, Any]:
    """A row of the JSON."""
    facts: dict[str, Any] = {"parameters_millions": row.parameters, "sampler": row.around}
    facts |= {what: asdict(times[f"{name} {what}"]) for what in ("update", "sample")}
    return facts if device == "cuda" else facts | {"gpu": NOT_YET}


def table(rows: dict[str, dict[str, Any]], device: str) -> str:
    """The table for people, the published numbers beside."""
    here = f"{device}: s/step"
    lines = [
        f"{'':14}{'parameters, M':>20}{here:>14}{'s/sample':>11}{'GPU':>20}   published: s/step, s/sample"
    ]
    for name in dict.fromkeys([*rows, *PUBLISHED]):
        told = "; ".join(
            f"{size}²: {step:g}, {sample:g}" for size, (step, sample) in PUBLISHED.get(name, {}).items()
        )
        told = f"{told} (hardware not stated)" if told else "none"
        row = rows.get(name)
        if row is None:
            lines.append(f"{name:14}{'':65}   {told}")
            continue
        count = " + ".join(f"{value:g}" for value in row["parameters_millions"].values())
        step, sample = (row[what]["median_ms"] / 1e3 for what in ("update", "sample"))
        gpu = "here" if device == "cuda" else NOT_YET
        lines.append(f"{name:14}{count:>20}{step:14.4f}{sample:11.4f}{gpu:>20}   {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
