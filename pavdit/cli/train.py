"""Train an autoencoder, a generator, its adapters or a sibling system from a YAML file."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit train``."""
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="key=value",
        help="change the configuration: --set train.num_steps=100 data.path=clips",
    )
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto: from the run's latest checkpoint, if any; never: from scratch; PATH: from there",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="say what memory, time and disk the run will take, and do not run it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train; exit code 75 where a signal ended it and the state is saved."""
    from pavdit.baselines import find_system
    from pavdit.cli.main import INTERRUPTED_AND_SAVED, OK
    from pavdit.config import parse_as, parse_run, read_run
    from pavdit.train.adapted import backbone_model
    from pavdit.train.run import run_training, train_system

    source = str(arguments.config)
    tree = read_run(arguments.config, tuple(arguments.set))
    if (name := tree.get("system")) is not None:
        system = find_system(name, source)
        run = parse_as(system.run, tree, source)
        if arguments.plan:
            raise ValueError(f"--plan: want a run of pavdit's own models, got one of {name}")
        outcome = train_system(run, system.open_stage, arguments.resume)
        return INTERRUPTED_AND_SAVED if outcome.interrupted else OK
    config = parse_run(tree, source, backbone_model(tree))
    if arguments.plan:
        from pavdit.train.plan import predict

        print("\n".join(predict(config).lines()))
        return OK
    outcome = run_training(config, arguments.resume)
    return INTERRUPTED_AND_SAVED if outcome.interrupted else OK
