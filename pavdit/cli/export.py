"""Write the averaged weights of a run as a small checkpoint for others to use, adapters merged on request."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pavdit.cli.generate import add_adapter_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit export``."""
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    add_adapter_argument(parser)
    parser.add_argument(
        "--dtype", default="bfloat16", help="of the weights, bfloat16 or float32 (default: bfloat16)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from pavdit.baselines import find_system
    from pavdit.cli.main import OK
    from pavdit.config import RunConfig, SystemRun
    from pavdit.train.adapted import open_backbone
    from pavdit.train.checkpoint import Checkpoint, open_checkpoint, system_of
    from pavdit.train.export import export, export_merged
    from pavdit.weights import find_weights

    source = find_weights(arguments.source)
    system = system_of(source)
    kind: type[SystemRun] = RunConfig if system is None else find_system(system, str(source)).run
    saved = open_checkpoint(source, kind)
    if not arguments.adapter:
        made: Checkpoint[Any] = export(saved, arguments.output, arguments.dtype)
    elif isinstance(saved.config, RunConfig):
        made = export_merged(
            open_backbone(source), dict(arguments.adapter), arguments.output, arguments.dtype
        )
    else:
        raise ValueError(f"--adapter: want pavdit's own weights, got those of {system}")
    weights = [record.size for name, record in made.files.items() if name.endswith(".safetensors")]
    print(made.path)
    print(
        f"step {made.step}, model {made.model_hash}, {sum(weights) / 1e6:.1f} MB of weights "
        f"in {len(weights)} files"
    )
    return OK
