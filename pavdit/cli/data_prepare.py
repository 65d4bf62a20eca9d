"""Cut a folder of recordings into clips of one size, rate and length, with their labels and captions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pavdit.cli.data_check import add_worker_arguments, require_worker_arguments

if TYPE_CHECKING:
    from pavdit.clip import ClipSpec
    from pavdit.config import DataConfig

SIZES = {"num_frames": "T", "height": "pixels", "width": "pixels", "sample_rate": "Hz"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit data prepare``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="recordings, or a table of them")
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--preset", default="base", help="whose clips to make (default: base)")
    for name, unit in SIZES.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, metavar=unit, help="instead of the preset's"
        )
    parser.add_argument("--fps", metavar="RATE", help="such as 10, 29.97 or 30000/1001")
    parser.add_argument("--layout", default="auto", help="auto, folders, aist or table")
    parser.add_argument("--labels", type=Path, metavar="TABLE", help="a .csv or .tsv of labels and captions")
    parser.add_argument("--captions", default="auto", help="auto or labels")
    parser.add_argument("--segments", default="all", choices=("all", "first"))
    parser.add_argument("--resize", default="crop", choices=("crop", "mmdiffusion"))
    parser.add_argument("--channel", default="mean", choices=("mean", "first"))
    parser.add_argument(
        "--drop",
        nargs="+",
        action="extend",
        default=[],
        choices=("silent", "black", "frozen"),
        help="leave out clips that are so from end to end",
    )
    add_worker_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prepare, and say what came of it."""
    from rich.console import Console

    from pavdit.cli.main import INTERRUPTED_AND_SAVED, OK
    from pavdit.clip import DataError
    from pavdit.data.cut import FAULTS, Recipe
    from pavdit.data.layout import list_sources
    from pavdit.data.prepare import LEDGER, SKIPPED, TABLE, prepare
    from pavdit.progress import progress

    require_worker_arguments(arguments)
    recipe = Recipe(
        _spec(arguments),
        arguments.resize,
        arguments.channel,
        arguments.segments == "first",
        tuple(fault for fault in FAULTS if fault in arguments.drop),
    )
    listing = list_sources(_data_config(arguments))
    output: Path = arguments.output
    if output.resolve() == listing.root.resolve() or listing.root.resolve() in output.resolve().parents:
        raise ValueError(f"OUT: want a folder outside of {listing.root}, got {output}")
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    console.print(listing.summary)
    output.mkdir(parents=True, exist_ok=True)
    try:
        with progress(console, "preparing") as tell:
            prepared = prepare(
                listing,
                output,
                recipe,
                num_workers=arguments.workers,
                time_limit_seconds=arguments.time_limit,
                progress=tell,
            )
    except KeyboardInterrupt:
        console.print(f"interrupted; {output / LEDGER} knows what is done, the same command goes on")
        return INTERRUPTED_AND_SAVED
    print(output / TABLE)
    print(f"{prepared.num_clips} clips, {prepared.num_new} of them new, {len(prepared.skipped)} skipped")
    if prepared.skipped:
        print(output / SKIPPED)
    if not prepared.num_clips:
        raise DataError(f"{arguments.folder}: want a clip from it, got none; {output / SKIPPED} says why")
    return OK


def _spec(arguments: argparse.Namespace) -> ClipSpec:
    import dataclasses

    from pavdit.config import PRESETS

    if arguments.preset not in PRESETS:
        raise ValueError(f"--preset: want one of {', '.join(PRESETS)}, got {arguments.preset!r}")
    given = {name: getattr(arguments, name) for name in (*SIZES, "fps")}
    spec = PRESETS[arguments.preset]().clip
    try:
        spec = dataclasses.replace(spec, **{name: v for name, v in given.items() if v is not None})
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"--fps, --sample-rate: {error}") from None
    if spec.height % 2 or spec.width % 2:
        raise ValueError(f"--height, --width: want even numbers (4:2:0), got {spec.height} x {spec.width}")
    return spec


def _data_config(arguments: argparse.Namespace) -> DataConfig:
    from pydantic import ValidationError

    from pavdit.config import ConfigError, DataConfig, one_line

    options = {name: getattr(arguments, name) for name in ("layout", "labels", "captions")}
    try:
        return DataConfig(kind="folder", path=arguments.folder, **options)
    except ValidationError as error:
        raise ConfigError(one_line(error)) from None
