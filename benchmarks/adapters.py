"""What adapters of a trained generator learn from a folder of clips: python benchmarks/adapters.py FOLDER.

The velocity error on held-out pieces of the clips, by the backbone alone and with adapters trained on the
others, and whether the backbone is to the bit what it was. The run lies in ``--output`` and goes on where it
stopped when the command is repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import header, results_path, write
from pavdit.config import RunConfig, parse_run, read_run
from pavdit.files import tensors_record
from pavdit.nn.adapters import Adapters
from pavdit.train.adapted import backbone_model
from pavdit.train.adapter import AdapterStage
from pavdit.train.run import train_system


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, train what is not trained yet, measure again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, metavar="FOLDER")
    parser.add_argument("--config", type=Path, default=Path("configs/adapter-folder.yaml"))
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="key=value")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/adapters"))
    parser.add_argument("--json", type=Path, help="also write the figures; - is the folder of results")
    arguments = parser.parse_args(argv)
    places = [f"data.path={arguments.clips}", f"train.run_dir={arguments.output / 'run'}"]
    tree = read_run(arguments.config, (*places, "train.device=cpu", *arguments.set))
    config = parse_run(tree, str(arguments.config), backbone_model(tree))
    command = "python benchmarks/adapters.py FOLDER --set " + " ".join(arguments.set)
    about = {"header": header("cpu"), "command": command}
    console, figures = Console(stderr=True), dict[str, object]()
    stages: list[AdapterStage] = []

    def open_stage(run: RunConfig, device: torch.device, console: Console) -> tuple[RunConfig, AdapterStage]:
        run, stage = AdapterStage.open(run, device, console)
        stages.append(stage)
        figures.update(backbone_alone(stage, run))
        return run, stage

    outcome = train_system(config, open_stage, console=console)
    if outcome.interrupted:
        print("interrupted and saved; repeat the command to go on")
        return 75
    digest = tensors_record(stages[0].backbone.state_dict()).sha256
    unchanged = digest == figures["backbone_sha256"]
    print("with adapters:  " + in_words(outcome.metrics))
    print(f"backbone {'unchanged' if unchanged else 'CHANGED'}: {digest[:12]}")
    figures |= {"adapted": outcome.metrics, "backbone_unchanged": unchanged, "steps": outcome.step}
    write(results_path(arguments.json, "adapters-real-clips", "cpu"), about | figures)
    return 0 if unchanged else 1


def backbone_alone(stage: AdapterStage, run: RunConfig) -> dict[str, object]:
    """Its errors, the sha256 of its weights, and counts of clips and parameters."""
    assert run.adapter is not None  # noqa: S101 - the stage asked for it
    fresh = Adapters(stage.backbone.stdit, run.adapter)  # at zero: the errors are the backbone's own
    errors = stage.validate(fresh)
    print("backbone alone: " + in_words(errors), flush=True)
    return {
        "backbone": errors,
        "backbone_hash": run.adapter.backbone_hash,
        "backbone_sha256": tensors_record(stage.backbone.state_dict()).sha256,
        "clips": len(stage.train),
        "held_out_clips": len(stage.validation),
        "trainable_parameters": sum(p.numel() for p in stage.adapters.parameters()),
        "backbone_parameters": sum(p.numel() for p in stage.backbone.parameters()),
    }


def in_words(errors: dict[str, float]) -> str:
    """Names and values in one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in errors.items())


if __name__ == "__main__":
    sys.exit(main())
