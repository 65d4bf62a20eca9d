"""Decode every file of a folder and list the bad ones with reasons: JSON, and a page to look at."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit data check``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="folder of the report (default: check/<FOLDER>)"
    )
    parser.add_argument(
        "--max-bad", type=float, default=0.0, metavar="SHARE", help="exit code 3 above it (default: 0)"
    )
    parser.add_argument("--min-seconds", type=float, default=1.6, help="shorter is too short (default: 1.6)")
    parser.add_argument(
        "--max-share",
        type=float,
        default=0.95,
        help="of a file that may be silent, black or frozen (default: 0.95)",
    )
    parser.add_argument(
        "--max-drift",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="between the ends of picture and sound (default: 0.5)",
    )
    add_worker_arguments(parser)


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of verbs that decode in processes."""
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    parser.add_argument(
        "--time-limit",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="for a file of up to 64 MB, and again for every further 64 MB (default: 60)",
    )


def require_worker_arguments(arguments: argparse.Namespace) -> None:
    """Raise ValueError for numbers that no worker can do with."""
    if arguments.workers < 1:
        raise ValueError(f"--workers: want at least 1 process, got {arguments.workers}")
    if not arguments.time_limit > 0:
        raise ValueError(f"--time-limit: want more than 0 s, got {arguments.time_limit:g}")


def run(arguments: argparse.Namespace) -> int:
    """Check, write ``report.json`` and ``report.html``, and say in numbers what was found."""
    from rich.console import Console

    from pavdit.cli.main import DATA, INTERRUPTED_AND_SAVED, OK
    from pavdit.data.check import Results, check_files
    from pavdit.data.judge import Limits
    from pavdit.data.layout import media_files
    from pavdit.data.report import as_html, as_json, bad_share, counts
    from pavdit.files import replace_with_text
    from pavdit.progress import progress

    require_worker_arguments(arguments)
    if not 0 <= arguments.max_bad <= 1:
        raise ValueError(f"--max-bad: want a share from 0 to 1, got {arguments.max_bad:g}")
    limits = Limits(arguments.min_seconds, arguments.max_share, arguments.max_drift)
    folder: Path = arguments.folder
    paths = media_files(folder)
    output = arguments.output or Path("check") / folder.resolve().name
    output.mkdir(parents=True, exist_ok=True)
    results = Results(output / "measured.jsonl")
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    try:
        with progress(console, "decoding") as tell:
            checked = check_files(
                paths,
                results,
                limits,
                num_workers=arguments.workers,
                time_limit_seconds=arguments.time_limit,
                progress=tell,
            )
    except KeyboardInterrupt:
        console.print(
            f"interrupted; {results.path} keeps {len(results.known)} files, the same command goes on"
        )
        return INTERRUPTED_AND_SAVED
    for name, text in (("report.json", as_json), ("report.html", as_html)):
        replace_with_text(output / name, text(checked, folder, limits))
        print(output / name)
    bad, share = sum(bool(file.findings) for file in checked), bad_share(checked)
    print(f"{len(checked)} files, {bad} bad" + "".join(f", {n} {r}" for r, n in counts(checked).items()))
    if share > arguments.max_bad:
        console.print(f"{folder}: want at most {arguments.max_bad:.1%} bad files, got {share:.1%}")
        return DATA
    return OK
