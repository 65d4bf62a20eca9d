"""``pavdit``: find the command, run it, turn errors into one line and an exit code.

Exit codes: 0 ok, 1 a fault of pavdit itself, 2 usage, 3 data, 4 resources, 5 non-finite, 75 interrupted and
saved.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

COMMANDS = ("data", "train", "export", "generate", "replay", "encode", "decode", "evaluate", "doctor")

OK, FAULT, USAGE, DATA, RESOURCES, NON_FINITE, INTERRUPTED_AND_SAVED = 0, 1, 2, 3, 4, 5, 75


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="pavdit", description="Joint generation of video and its sound.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        module = importlib.import_module(f"pavdit.cli.{name}")
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def exit_code(error: BaseException) -> int:
    """The exit code of an error that ended a command."""
    import torch

    from pavdit.clip import DataError
    from pavdit.train.trainer import NonFiniteError

    number = getattr(error, "errno", None) or getattr(error.__context__, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):  # also where it reached us as a file that cannot be written
        return RESOURCES
    kinds: tuple[tuple[int, tuple[type[BaseException], ...]], ...] = (
        (DATA, (DataError,)),
        (NON_FINITE, (NonFiniteError,)),
        (RESOURCES, (OSError, MemoryError, torch.OutOfMemoryError)),
        (USAGE, (ValueError, TypeError)),  # raised at a boundary, about an argument
    )
    return next((code for code, classes in kinds if isinstance(error, classes)), FAULT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code. ``PAVDIT_DEBUG=1`` shows tracebacks."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        sys.stderr.close()
        return 128 + 13
    except KeyboardInterrupt:
        sys.stderr.write("pavdit: interrupted\n")
        return 128 + 2  # what a shell reports for SIGINT
    except Exception as error:
        if os.environ.get("PAVDIT_DEBUG") == "1":
            raise
        code = exit_code(error)
        text = " ".join(str(error).split())
        hint = " (a fault of pavdit: PAVDIT_DEBUG=1 shows where)" if code == FAULT else ""
        sys.stderr.write(f"pavdit {arguments.command}: {text or type(error).__name__}{hint}\n")
        return code


if __name__ == "__main__":
    sys.exit(main())
