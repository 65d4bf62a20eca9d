"""Generate clips with a trained generator."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pavdit.options import Choices


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit generate``."""
    parser.add_argument(
        "prompt",
        nargs="?",
        help="a class or 'a video of <class>', or any text where a language model reads it; "
        "without one: no condition",
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="a generator's checkpoint or run directory"
    )
    parser.add_argument("--n", type=int, default=1, help="clips")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip; the next has the next seed")
    parser.add_argument("--steps", type=int, help="of the sampler (default: as configured)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: as configured)")
    parser.add_argument("--task", default="auto", help="auto, t2av, v2a, a2v, t2v or t2a")
    parser.add_argument("--video", type=Path, help="clip whose frames are given; its sound is made")
    parser.add_argument("--audio", type=Path, help="clip whose sound is given; its frames are made")
    parser.add_argument(
        "--batch-size", type=_batch_size, default="auto", help="clips at a time (default: auto)"
    )
    parser.add_argument("--text-path", type=Path, help="the language model's folder, if it has moved")
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
        "-o", "--output", type=Path, required=True, metavar="OUT", help="a folder, or one .mp4"
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


def run(arguments: argparse.Namespace) -> int:
    """Generate and save."""
    from rich.console import Console
    from rich.progress import Progress

    from pavdit.cli.main import OK
    from pavdit.flow.step_cache import StepCache
    from pavdit.pipeline import Pipeline

    paths = output_paths(arguments.output, arguments.n, arguments.seed)
    interval, cache = arguments.guidance_interval, arguments.step_cache
    choices: Choices = {
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "guidance_interval": None if interval is None else (interval[0], interval[1]),
        "step_cache": None if cache is None else StepCache.parse(cache),
    }
    pipeline = Pipeline.from_pretrained(
        arguments.checkpoint,
        arguments.device,
        arguments.text_path,
        dtype=arguments.dtype,
        graph=arguments.graph,
        compile=arguments.compile,
        attention=arguments.attention,
        tier=arguments.tier,
        fp8=arguments.fp8,
        absorbed=arguments.absorbed,
    )
    video, audio = (
        None if path is None else pipeline.read(path) for path in (arguments.video, arguments.audio)
    )
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("sampling", total=arguments.n)
        steps = progress.add_task("steps")
        clips = pipeline.stream(
            arguments.prompt,
            video,
            audio,
            task=arguments.task,
            n=arguments.n,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            callback=lambda step, total, _: progress.update(steps, completed=step, total=total),
            **choices,
        )
        for index, clip in clips:  # each is saved when it is done, so an interruption loses none before it
            paths[index].parent.mkdir(parents=True, exist_ok=True)
            print(clip.save(paths[index]))
            progress.advance(bar)
    if arguments.error:
        error = pipeline.error_against_exact(
            arguments.prompt, video, audio, arguments.task, arguments.seed, **choices
        )
        print(f"against exact: {error}")
    return OK


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def output_paths(output: Path, n: int, seed: int) -> list[Path]:
    """Where the clips go: `output` itself if it is an .mp4, else ``OUTPUT/seed-<seed>.mp4``.

    Raises:
        ValueError: `n` is below 1, or several clips shall go into one file.
    """
    if n < 1:
        raise ValueError(f"--n: want at least 1 clip, got {n}")
    if output.suffix != ".mp4":
        return [output / f"seed-{seed + i:04d}.mp4" for i in range(n)]
    if n > 1:
        raise ValueError(f"-o: want a folder for {n} clips, got the file {output}")
    return [output]
