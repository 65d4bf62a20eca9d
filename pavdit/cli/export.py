"""Write the averaged weights of a run as a small checkpoint for others to use."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit export``."""
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--dtype", default="bfloat16", help="of the weights, bfloat16 or float32 (default: bfloat16)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from pavdit.baselines import find_system
    from pavdit.cli.main import OK
    from pavdit.config import RunConfig, SystemRun
    from pavdit.train.checkpoint import open_checkpoint, system_of
    from pavdit.train.export import export

    system = system_of(arguments.source)
    kind: type[SystemRun] = RunConfig if system is None else find_system(system, str(arguments.source)).run
    made = export(open_checkpoint(arguments.source, kind), arguments.output, arguments.dtype)
    weights = [record.size for name, record in made.files.items() if name.endswith(".safetensors")]
    print(made.path)
    print(
        f"step {made.step}, model {made.model_hash}, {sum(weights) / 1e6:.1f} MB of weights "
        f"in {len(weights)} files"
    )
    return OK
