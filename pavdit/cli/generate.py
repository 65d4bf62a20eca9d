"""Generate clips: from a prompt, from many, or to a given picture or sound."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from pavdit.baselines.system import ClipMaker
    from pavdit.batching import BatchSize
    from pavdit.clip import Clip

DEFAULT_WEIGHTS = Path("bounce-64")

OURS_ALONE: dict[str, object] = {
    "text_path": None,
    "adapter": [],
    "pipeline": None,
    "graph": None,
    "attention": "auto",
    "tier": "exact",
    "fp8": None,
    "absorbed": None,
    "guidance_interval": None,
    "step_cache": None,
    "error": False,
}
"""Arguments that a sibling system does not have, as they are when nobody asks for them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit generate``."""
    parser.add_argument(
        "prompt",
        nargs="?",
        help="a sentence of the words that the weights know, such as 'a metal ball hits the wall'; "
        "without one: no condition",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="many prompts: lines of a .txt, or a .csv or .jsonl with prompt, and seed and name if you like",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=DEFAULT_WEIGHTS,
        help="a generator's checkpoint or run directory, or bundled weights by name (default: %(default)s)",
    )
    add_adapter_argument(parser)
    parser.add_argument("--n", type=int, default=1, help="clips of each prompt (default: 1)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of a prompt's first clip; the next has the next one (default: 0)",
    )
    parser.add_argument("--steps", type=int, help="of the sampler (default: as configured)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: as configured)")
    parser.add_argument("--task", default="auto", help="auto, t2av, v2a, a2v, t2v or t2a")
    parser.add_argument(
        "--pipeline",
        help="joint (the default): picture and sound at once; two-step: a picture, then sound to it; "
        "two-step-sound-first: the reverse",
    )
    parser.add_argument("--video", type=Path, help="file whose picture is given; its sound is made")
    parser.add_argument("--audio", type=Path, help="file whose sound is given; its picture is made")
    parser.add_argument(
        "--batch-size", type=_batch_size, default="auto", help="clips at a time (default: auto)"
    )
    parser.add_argument("--text-path", type=Path, help="the language model's folder, if it has moved")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="key=value",
        help="a sibling system's own options: --set sampling.method=ddim",
    )
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--device", default="auto")
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--graph", action=switch, help="steps and decoding as CUDA graphs (default: on CUDA)")
    parser.add_argument("--compile", action=switch, help="compiled blocks (default: on CUDA)")
    parser.add_argument(
        "--attention", default="auto", help="inside a frame: auto (as measured), block, sdpa or flash"
    )
    add_fast_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out"),
        metavar="OUT",
        help="a folder, or one .mp4 (default: out); a clip that is there already is not made again",
    )


def add_adapter_argument(parser: argparse.ArgumentParser) -> None:
    """Adapters of the weights; with several, their updates add up."""
    parser.add_argument(
        "--adapter",
        type=_adapter,
        nargs="+",
        action="extend",
        default=[],
        metavar="DIR[:STRENGTH]",
        help="runs or checkpoints of train.stage adapter, trained on these weights (strength: 1)",
    )


def add_fast_arguments(parser: argparse.ArgumentParser) -> None:
    """The switches that trade a little of the result for time; without them the result is the exact one."""
    fast = parser.add_argument_group("fast", "cheaper ways; --error says what they cost")
    fast.add_argument("--tier", default="exact", help="exact, or fast: --fp8 and --absorbed")
    switch = argparse.BooleanOptionalAction
    fast.add_argument("--fp8", action=switch, help="products of e4m3 numbers (emulated on a CPU)")
    fast.add_argument("--absorbed", action=switch, help="cross-attention to short text in fewer products")
    fast.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="times with guidance, 0 is noise (default: as configured)",
    )
    fast.add_argument(
        "--step-cache",
        metavar="EVERY[,BLOCKS[,TIMES]]",
        help="reuse what the middle blocks added in the step before, for example 2,0.25-0.75,0.2-0.8",
    )
    fast.add_argument(
        "--error",
        action="store_true",
        help="also make the first clip the exact way, and print the difference",
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A clip of the command: prompt, seed, and what its file is called."""

    prompt: str | None
    seed: int
    stem: str


def run(arguments: argparse.Namespace) -> int:
    """Make what is not there yet, save each clip as soon as it is made, and draw them all."""
    from rich.console import Console

    from pavdit.cli.given import read_given
    from pavdit.cli.main import INTERRUPTED_AND_SAVED, OK
    from pavdit.cli.outputs import draw_sheet, place_clips, require_output, sheet_path
    from pavdit.pipeline import Pipeline
    from pavdit.tasks import STREAMS

    output: Path = arguments.output
    wanted = wanted_clips(arguments)
    require_output(output, len(wanted))
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    pipeline = load_pipeline(arguments)
    given: dict[str, Clip] = {
        stream: read_given(pipeline, path, stream, console)
        for stream in STREAMS
        if (path := getattr(arguments, stream)) is not None
    }
    call: dict[str, Any] = {**given, "task": arguments.task, **choices_of(pipeline, arguments)}
    known = pipeline.provenance([w.prompt for w in wanted], seed=[w.seed for w in wanted], **call)
    places = place_clips(output, [w.stem for w in wanted], known)
    paths = list(dict.fromkeys(place.path for place in places))  # a clip asked for twice is made once
    todo = {place.path: w for place, w in zip(places, wanted, strict=True) if not place.is_done}
    for path in paths:
        if path not in todo:
            print(path)
    if there := len(paths) - len(todo):
        console.print(f"{there} of {len(paths)} clips are there already; another --seed makes others")
    try:
        if todo:
            make(pipeline, todo, call, arguments.batch_size, console)
        sheet = sheet_path(output, paths)
        if todo or not sheet.exists():
            draw_sheet(paths, pipeline.config, sheet)
        console.print(f"contact sheet: {sheet}")
    except KeyboardInterrupt:
        saved = sum(path.exists() for path in paths)
        console.print(
            f"interrupted; {saved} of {len(paths)} clips are saved in {output}, the same command goes on"
        )
        return INTERRUPTED_AND_SAVED
    if arguments.error and isinstance(pipeline, Pipeline):
        error = pipeline.error_against_exact(wanted[0].prompt, seed=wanted[0].seed, **call)
        print(f"against exact: {error}")
    return OK


def wanted_clips(arguments: argparse.Namespace) -> list[Wanted]:
    """Every clip of the command: ``--n`` of each prompt, with one seed after the other from the row's on.

    Raises:
        ValueError: the arguments exclude each other.
        DataError: the file of prompts cannot be used.
    """
    from pavdit.cli.outputs import stem_of
    from pavdit.cli.prompts import Row, read_prompts

    n, file, prompt = arguments.n, arguments.prompts, arguments.prompt
    if n < 1:
        raise ValueError(f"--n: want at least 1 clip, got {n}")
    if file is not None and prompt is not None:
        raise ValueError(f"--prompts: want a file or one prompt, got both {file} and {prompt!r}")
    given: Path | None = arguments.video or arguments.audio
    clips = []
    for row in [Row(prompt)] if file is None else read_prompts(file):
        first = arguments.seed if row.seed is None else row.seed
        for seed in range(first, first + n):
            named = bool(row.name) and n == 1
            about = row.name or row.prompt or (given.stem if given else "")
            stem = row.name if named else stem_of(about, seed)
            clips.append(Wanted(row.prompt, seed, stem))
    return clips


def load_pipeline(arguments: argparse.Namespace) -> ClipMaker:
    """The models, as the arguments want them to run.

    Raises:
        ValueError: an argument is not for this system.
    """
    from pavdit.cli.makers import SETTINGS, load_maker, system_behind

    settings = {name: getattr(arguments, name) for name in SETTINGS}
    if (system := system_behind(arguments.checkpoint)) is None:
        own = ("text_path", "graph", "attention", "tier", "fp8", "absorbed")
        settings |= {name: getattr(arguments, name) for name in own}
        settings["adapters"] = dict(arguments.adapter)
    else:
        for name, unasked in OURS_ALONE.items():
            if getattr(arguments, name) != unasked:
                option = name.replace("_", "-")
                raise ValueError(f"--{option}: want pavdit's own weights, got those of {system}")
    return load_maker(arguments.checkpoint, arguments.device, arguments.set, settings)


def choices_of(pipeline: ClipMaker, arguments: argparse.Namespace) -> dict[str, Any]:
    """How the samples are made."""
    from pavdit.flow.step_cache import StepCache
    from pavdit.pipeline import Pipeline

    choices = {"steps": arguments.steps, "guidance": arguments.guidance}
    if not isinstance(pipeline, Pipeline):
        return choices
    interval, cache = arguments.guidance_interval, arguments.step_cache
    return choices | {
        "guidance_interval": None if interval is None else (interval[0], interval[1]),
        "step_cache": None if cache is None else StepCache.parse(cache),
        "pipeline": arguments.pipeline,
    }


def make(
    pipeline: ClipMaker,
    todo: Mapping[Path, Wanted],
    call: Mapping[str, Any],
    batch_size: BatchSize,
    console: Console,
) -> None:
    """Make clips; each is saved when it is done, so that an interruption loses none before it."""
    from rich.progress import Progress

    paths, wanted = list(todo), list(todo.values())
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("sampling", total=len(todo))
        steps = progress.add_task("steps")
        clips = pipeline.stream(
            [w.prompt for w in wanted],
            seed=[w.seed for w in wanted],
            batch_size=batch_size,
            callback=lambda step, total, _: progress.update(steps, completed=step, total=total),
            **call,
        )
        for index, clip in clips:
            paths[index].parent.mkdir(parents=True, exist_ok=True)
            print(clip.save(paths[index]), flush=True)
            progress.advance(bar)


def _adapter(text: str) -> tuple[str, float]:
    """A folder and how much it counts; a folder may have a colon in its name."""
    path, _, strength = text.rpartition(":")
    try:
        return (path, float(strength)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)
