"""What `pavdit evaluate` does with a system: make its clips, rebuild real ones, find its training set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pavdit.audio.mel import mel_images
from pavdit.cli.makers import load_maker
from pavdit.cli.outputs import place_clips, stem_of
from pavdit.cli.sampling_processes import Order, how_many, make_in_processes
from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.config import ConfigError
from pavdit.data.layout import EXTENSIONS
from pavdit.data.shards import content_key
from pavdit.evaluation.features import BATCH, each_on_a_core
from pavdit.evaluation.measures import Result, Sampling, mean
from pavdit.evaluation.protocol import Windows
from pavdit.evaluation.sets import BounceSet, EvaluationSet
from pavdit.metrics.signal import psnr
from pavdit.pipeline import Pipeline
from pavdit.progress import progress
from pavdit.provenance import CIRCUMSTANCES
from pavdit.tasks import JOINT, PIPELINES
from pavdit.train.models import choose_device
from pavdit.weights import bundled_names, find_weights

if TYPE_CHECKING:
    from rich.console import Console

    from pavdit.baselines.system import ClipMaker

RECONSTRUCTED = {"cpu": 16, "cuda": 256}
"""Reference clips that go through the autoencoder, at most, by the type of the device."""


def split_pipeline(named: Path) -> tuple[Path, str]:
    """Weights and how they make both streams: ``bounce-64:two-step``; without one, at once."""
    model, _, pipeline = str(named).rpartition(":")
    return (Path(model), pipeline) if model and pipeline in PIPELINES else (named, JOINT)


def is_model(path: Path) -> bool:
    """Whether `--generated` means weights, and not a folder of clips.

    Raises:
        DataError: it is neither.
    """
    path, _ = split_pipeline(path)
    if not path.exists():
        if str(path) in bundled_names():
            return True
        names = ", ".join(bundled_names())
        raise DataError(f"--generated: want a folder of clips, a checkpoint, a run or {names}, got {path}")
    if not path.is_dir():
        raise DataError(f"--generated: want a folder of clips, a checkpoint or a run, got the file {path}")
    if (path / "manifest.json").is_file():  # some data sets have one, too
        return not any(file.suffix.lower() in EXTENSIONS for file in path.iterdir())
    return any(step.is_dir() for step in path.glob("step-*"))  # damaged or not, the one who loads them tells


@dataclass(frozen=True, slots=True)
class ModelSide:
    """A system whose clips are evaluated.

    Attributes:
        pipe: its models.
        weights: where they lie.
        device: where they run.
        choices: how they sample.
        output: where clips go.
        seed: of the first clip.
        console: where progress is shown.
    """

    pipe: ClipMaker
    weights: Path
    device: torch.device
    choices: Mapping[str, Any]
    output: Path
    seed: int
    console: Console

    @classmethod
    def open(cls, named: Path, arguments: argparse.Namespace, spec: ClipSpec, console: Console) -> ModelSide:
        """Load the weights.

        Args:
            named: weights, perhaps with a pipeline behind a colon.
            arguments: of the command.
            spec: of the clips that are compared.
            console: where progress is shown.

        Raises:
            DataError: they are damaged.
            ConfigError: they are an autoencoder's, or make clips of another length or rate than the protocol.
        """
        weights, pipeline = split_pipeline(named)
        pipe = load_maker(weights, arguments.device)
        own = pipe.config.clip
        if isinstance(pipe, Pipeline) and pipe.generator is None:
            raise ConfigError(f"{named}: want a generator's weights, got an autoencoder's")
        if (own.num_frames, own.fps) != (spec.num_frames, spec.fps):
            raise ConfigError(
                f"{named}: want weights for the protocol's {spec.num_frames} frames at "
                f"{float(spec.fps):g} fps, got {own.num_frames} at {float(own.fps):g}"
            )
        choices = {"steps": arguments.steps}
        if isinstance(pipe, Pipeline):
            choices |= {"guidance": arguments.guidance, "pipeline": pipeline}
        elif pipeline != JOINT:
            raise ConfigError(f"{named}: want pavdit's own weights for {pipeline}, got a sibling system's")
        device = choose_device(arguments.device)
        return cls(pipe, find_weights(weights), device, choices, arguments.output, arguments.seed, console)

    def make(self, reference: EvaluationSet, count: int) -> Path:
        """One clip for the words of each reference clip; those that are there already are not made again.

        Returns:
            Their folder, which is named after the weights and the way of sampling.

        Raises:
            ValueError: the model does not know the words.
        """
        words = {"classes": "label", "sentences": "caption"}.get(self.pipe.prompts)
        records = [reference.record(i) for i in range(count)]
        prompts = [(getattr(r, words) or None) if words else None for r in records]
        seeds = list(range(self.seed, self.seed + count))
        provenance = self.pipe.provenance(prompts, seed=seeds, **self.choices)
        way = content_key(json.dumps(provenance, sort_keys=True))
        folder = self.output / f"generated-{way[:12]}"
        stems = [stem_of(prompt or "", seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        places = place_clips(folder, stems, provenance)
        todo = [i for i, place in enumerate(places) if not place.is_done]
        folder.mkdir(parents=True, exist_ok=True)
        if todo:
            done = 0
            with progress(self.console, "sampling") as tell:
                for more in self._write([Order(prompts[i], seeds[i], places[i].path) for i in todo]):
                    done += more
                    tell(done, len(todo))
        return folder

    def _write(self, orders: Sequence[Order]) -> Iterator[int]:
        """Make clips, each in its file; says how many more are done."""
        processes = how_many(self.device, self.weights, len(orders))
        if processes > 1:
            yield from make_in_processes(self.weights, orders, self.choices, processes)
            return
        made = self.pipe.stream([o.prompt for o in orders], seed=[o.seed for o in orders], **self.choices)
        for index, clip in made:
            clip.save(orders[index].path)
            yield 1

    def reconstruction(
        self, reference: EvaluationSet, spec: ClipSpec, sampling: Sampling
    ) -> list[Result] | str:
        """PSNR of real clips that went through the autoencoder, frames as they are delivered; or why not."""
        if not isinstance(self.pipe, Pipeline):
            return "the system has no autoencoder"
        device, own = self.pipe.codec.device, self.pipe.config.clip
        if spec != own:
            return f"want the model's own clips, {own.height} x {own.width}, got {spec.height} x {spec.width}"
        size, parts = BATCH[device.type], list[Tensor]()
        clips = _readable(reference, RECONSTRUCTED[device.type])
        with progress(self.console, "reconstruction") as tell:
            for first in range(0, len(clips), size):
                group = clips[first : first + size]
                if device.type == "cpu":
                    parts += each_on_a_core(partial(_rebuilt, self.pipe), [[clip] for clip in group])
                else:
                    parts.append(_rebuilt(self.pipe, group))
                tell(first + len(group), len(clips))
        names = ("video", "mel images") if parts else ()
        return [
            mean(f"reconstruction: {name}, PSNR, dB", torch.cat(parts)[:, column], sampling)
            for column, name in enumerate(names)
        ]

    def training(
        self, spec: ClipSpec, most: int, folder: Callable[[Path, Windows, int], EvaluationSet]
    ) -> EvaluationSet | str:
        """The first clips of what the generator was trained on, or why they cannot be had."""
        data = self.pipe.data
        if data is None:
            return "the weights do not say what they were trained on; want --training DIR"
        if data.kind == "bounce":
            assert data.num_clips is not None  # noqa: S101 - its configuration asks for it
            return BounceSet(min(most, data.num_clips - data.held_out), spec, data.seed, data.scenes)
        if data.path is None or not data.path.is_dir():
            return f"the training set {data.path} is not on this machine; want --training DIR"
        return folder(data.path, "first", most)

    def described(self) -> dict[str, object]:
        """For JSON."""
        pipe, own = self.pipe, self.pipe.config.clip
        about: dict[str, object] = {"checkpoint": pipe.checkpoint, "model": pipe.model_hash}
        if isinstance(pipe, Pipeline):
            about["steps"] = self.choices["steps"] or pipe.config.flow.num_steps
            about["guidance"] = self.choices["guidance"] or pipe.config.flow.guidance_scale
            about["pipeline"] = self.choices["pipeline"]
        else:
            [facts] = pipe.provenance(seed=self.seed, **self.choices)
            about |= {name: facts[name] for name in facts if name not in (*CIRCUMSTANCES, "prompt", "seed")}
        made = {"pixels": f"{own.height} x {own.width}", "sample_rate": own.sample_rate}
        return about | made | {"trained": dict(pipe.trained), "first_seed": self.seed}


@torch.inference_mode()
def _rebuilt(pipe: Pipeline, clips: Sequence[Clip]) -> Tensor:
    """PSNR in dB of clips that went through the autoencoder, of frames and mel images: ``(B, 2)``."""
    codec, config = pipe.codec, pipe.config
    frames, images = codec.to_frames(*codec.encode(clips, "video", "audio"))
    assert frames is not None and images is not None  # noqa: S101 - both streams are decoded
    waves = torch.stack([clip.wave for clip in clips]).to(codec.device)
    true = torch.stack([clip.frames for clip in clips])
    heard = mel_images(waves, config.clip, config.mel).cpu()
    video = psnr(frames.cpu(), true, 255.0)
    return torch.stack([video, psnr(images.float().clamp(-1, 1).cpu(), heard, 2.0)], dim=1)


def _readable(reference: EvaluationSet, most: int) -> list[Clip]:
    clips = []
    for place in range(min(len(reference), most)):
        try:
            clips.append(reference.read(place))
        except DataError:  # the set has noted it
            continue
    return clips
