"""Trained weights on clips of `bounce` that they never saw: ``python benchmarks/bounce.py --checkpoint RUN``.

Events are found, colours, motions and pitches recognised by the same means in what is made and in true clips:
what is found in those no model can pass, and it stands beside. Parts:

reconstruction  clips through the autoencoder and back
t2av            clips from held-out captions: in step with themselves, and of what the caption says
v2a, a2v        one stream of a held-out clip is given, with its caption and without
copies          distance of samples to the nearest clip of the training

The JSON is rewritten after every part; one that fails is named, and the others follow.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # else every process's numpy takes every core
if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import header, write
from benchmarks.held_out.copies import copies
from benchmarks.held_out.observe import Host, Source
from benchmarks.held_out.parts import SAMPLE_SEED, HeldOut, Outcome
from benchmarks.held_out.scores import TITLE
from pavdit.clip import DataError
from pavdit.config import ConfigError
from pavdit.options import Choices, SamplingOptions
from pavdit.pipeline import Pipeline
from pavdit.tasks import PIPELINES

DATA_SEED = 74_205
"""Of the held-out clips; of no training's."""
PARTS: dict[str, Callable[[HeldOut], Outcome]] = {
    "reconstruction": HeldOut.reconstruction,
    "t2av": HeldOut.t2av,
    "v2a": HeldOut.v2a,
    "a2v": HeldOut.a2v,
    "copies": copies,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="run directory, checkpoint or bundled weights")
    parser.add_argument("--clips", type=int, default=500, help="held-out clips (default: 500)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no part after so many")
    parser.add_argument("--steps", type=int, help="of the sampler (default: as configured)")
    parser.add_argument("--guidance", type=float, help="(default: as configured)")
    parser.add_argument(
        "--pipeline", choices=tuple(PIPELINES), help="of t2av (default: both streams at once)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args(argv)
    if options.clips < 2:
        parser.error(f"--clips: want at least 2, got {options.clips}")
    host = Host()  # before anything runs on a device
    try:
        pipe = opened(options.checkpoint, options.device, options.parts)
    except (ConfigError, DataError, ValueError) as error:
        parser.error(str(error))

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {line}", flush=True)

    choices: Choices = {"steps": options.steps, "guidance": options.guidance}
    if options.pipeline:
        choices["pipeline"] = options.pipeline
    facts = described(pipe, options.checkpoint, choices) | {
        "num_clips": options.clips,
        "data_seed": DATA_SEED,
    }
    for name, value in facts.items():
        print(f"{name}: {value}")
    say(f"{host.workers} processes draw {options.clips} held-out clips")
    source = Source(pipe.config.clip, pipe.data.scenes if pipe.data else "all", DATA_SEED)
    held_out = HeldOut(
        pipe, choices, host, source, options.clips, lambda: options.seconds - (time.monotonic() - begin)
    )
    parts: dict[str, dict[str, object]] = {}
    table = []
    for name in options.parts:
        started = time.monotonic()
        if held_out.left() <= 0:
            parts[name] = {"left_out": f"{options.seconds:g} s were over"}
        else:
            try:
                rows, more = PARTS[name](held_out)
            except Exception as error:
                parts[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
                traceback.print_exc()
            else:
                seconds = round(time.monotonic() - started, 1)
                parts[name] = {"seconds": seconds, "rows": [row.as_dict() for row in rows]} | more
                table += [name, *(f"  {row}" for row in rows)]
        say(f"{name}: {next(iter(parts[name]))}")
        write(options.json, without_nan(facts | {"true_clips": held_out.detectors(), "parts": parts}))
    host.close()
    print("\n".join(["  " + TITLE, *table]))
    return int(any("failed" in part for part in parts.values()))


def opened(path: str, device: str, parts: Sequence[str]) -> Pipeline:
    """The weights, if they have what the parts need.

    Raises:
        ConfigError: they do not, or were not trained on `bounce`.
        DataError: there are none.
    """
    # large batches hardly wait for launches, and neither a graph nor compiled code is paid back here
    pipe = Pipeline.from_pretrained(path, device, compile=False, graph=False)
    if pipe.data is None or pipe.data.kind != "bounce" or pipe.data.seed == DATA_SEED:
        raise ConfigError(
            f"{path}: want weights of `bounce` and another seed than {DATA_SEED}, got {pipe.data}"
        )
    if pipe.generator is None and set(parts) != {"reconstruction"}:
        raise ConfigError(f"{path}: want a generator's weights for {', '.join(parts)}, got an autoencoder's")
    return pipe


def without_nan(value: Any) -> Any:
    """The same with None for what is no number, which JSON does not know."""
    if isinstance(value, dict):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def described(pipe: Pipeline, path: str, choices: Choices) -> dict[str, object]:
    """What every number needs beside it."""
    sampling = SamplingOptions.of(pipe.config.flow, "t2av", choices).described()
    data = pipe.data
    assert data is not None  # noqa: S101 - `opened` looked
    trained = {"training_seed": data.seed, "training_clips": data.num_clips, "scenes": data.scenes}
    run = {"checkpoint": path, "model": pipe.model_hash, "preset": pipe.config.name}
    return (
        header(pipe.runtime.device.type)
        | run
        | pipe.stats
        | {name: sampling[name] for name in ("steps", "guidance", "guidance_interval", "pipeline")}
        | trained
        | {"sample_seed": SAMPLE_SEED}
    )


if __name__ == "__main__":
    sys.exit(main())
