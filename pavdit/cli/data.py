"""Look after a folder of clips: check it, or cut it into clips of one kind; show the procedural set."""

from __future__ import annotations

import argparse
import importlib

VERBS = ("check", "prepare", "show")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit data``: those of its verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        module = importlib.import_module(f"pavdit.cli.data_{name}")
        verb = verbs.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(verb)
        verb.set_defaults(run_verb=module.run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    return int(arguments.run_verb(arguments))
