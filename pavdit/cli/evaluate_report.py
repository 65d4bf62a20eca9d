"""What `pavdit evaluate` found, as a table on stdout and as JSON: of one system, or of several together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from pavdit.cli.evaluate_model import ModelSide
    from pavdit.evaluation.compare import Report
    from pavdit.evaluation.measures import Result
    from pavdit.evaluation.protocol import Protocol
    from pavdit.evaluation.sets import EvaluationSet

NAME_WIDTH = 58
LISTED = 20
"""Files that are left out, by name; the JSON has all."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One of the things that were compared with the reference.

    Attributes:
        name: as it was given.
        model: what made the clips; None: they were there.
        clips: the generated side.
        report: what came of it.
    """

    name: str
    model: ModelSide | None
    clips: EvaluationSet
    report: Report


def print_reports(
    compared: Sequence[Compared], reference: EvaluationSet, protocol: Protocol, console: Console
) -> None:
    """The table on stdout; what a reader should know on stderr."""
    alone = len(compared) == 1
    sides = {"generated" if alone else one.name: one.clips for one in compared} | {"reference": reference}
    print(f"protocol {protocol.name}, version {protocol.version}: {protocol.about}")
    for side, clips in sides.items():
        print(f"{side}: {clips.about}")
        for note in clips.notes:
            console.print(f"{side}: {note}")
        for name, reason in islice(clips.left_out.items(), LISTED):
            console.print(f"{side}: left out {name}: {reason}")
        if len(clips.left_out) > LISTED:
            console.print(f"{side}: left out {len(clips.left_out) - LISTED} more, which the JSON lists")
    print(f"{'':<{NAME_WIDTH}}{'value':>11}{'95 % interval':>24}{'clips':>14}")
    rows = [("", result) for result in compared[0].report.results] if alone else list(side_by_side(compared))
    networks, title = {}, ""
    for name, result in rows:
        if name and result.name != title:
            title = result.name
            print(title)
        print(_line(f"  {name}" if name else result.name, result))
        if result.network is not None:
            networks[result.network["name"]] = result.network["sha256"]
    for name, result in rows:
        for note in result.notes:
            console.print(f"{name + ': ' if name else ''}{result.name}: {note}")
    for name, digest in networks.items():
        print(f"network {name}: sha256 {digest}")
    for one in compared:
        about = "" if alone else f"{one.name}: "
        if nearest := one.report.nearest:
            share = nearest["share_nearer_than_95_percent_of_reference"]
            print(
                f"{about}{share:.1%} of the generated clips are nearer to a training clip than 95 % of the "
                f"reference is ({nearest['compared']} training clips compared)"
            )
        for name, reason in one.report.left_out.items():
            console.print(f"{about}left out: {name}: {reason}")


def side_by_side(compared: Sequence[Compared]) -> Iterator[tuple[str, Result]]:
    """Every measure's rows after each other: of each system by name, then of the reference, which is one."""
    titles: dict[str, list[tuple[str, Result]]] = {}
    for one in compared:
        for result in one.report.results:
            of_reference = ", reference" in result.name
            title = result.name.replace(", reference", "").replace(", generated", "")
            if not of_reference:
                titles.setdefault(title, []).append((one.name, replace(result, name=title)))
    for result in compared[0].report.results:
        if ", reference" in result.name:
            title = result.name.replace(", reference", "")
            titles.setdefault(title, []).append(("reference", replace(result, name=title)))
    for rows in titles.values():
        yield from rows


def _line(name: str, result: Result) -> str:
    interval = "" if math.isnan(result.low) else f"{result.low:.4g} to {result.high:.4g}"
    counts = f"{result.generated}" + (f" / {result.reference}" if result.reference else "")
    return f"{name:<{NAME_WIDTH}}{result.value:>11.4f}{interval:>24}{counts:>14}"


def write_reports(
    path: Path, facts: dict[str, object], compared: Sequence[Compared], reference: EvaluationSet
) -> None:
    """The JSON, as a whole or not at all; numbers that are none are null.

    Of one system, what was found stands at the top; of several, each has its own in ``systems``.
    """
    from pavdit import __version__
    from pavdit.evaluation.compare import described
    from pavdit.files import replace_with_text

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    found: list[dict[str, object]] = [
        {
            "name": one.name,
            "model": None if one.model is None else one.model.described(),
            "generated": described(one.clips),
            **one.report.as_dict(),
        }
        for one in compared
    ]
    about: dict[str, object] = {"pavdit": __version__, **facts, "reference": described(reference)}
    about |= found[0] if len(found) == 1 else {"systems": found}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_with_text(path, json.dumps(finite(about), indent=1) + "\n")
