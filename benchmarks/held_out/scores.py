"""Numbers of what was made, each beside that of true clips and of chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.held_out.observe import Observed
from pavdit.data.bounce.recognise import Seen
from pavdit.metrics.event_sync import SyncScores

NAME_WIDTH = 62
ATTRIBUTES = ("objects", "colour", "pitch", "action", "all")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        name: what is measured.
        made: in what the models made.
        true: by the same detectors in true clips: what cannot be passed.
        chance: of something that has nothing to do with its condition.
        aim: what is wanted of `made`.
    """

    name: str
    made: float
    true: float | None = None
    chance: float | None = None
    aim: str = ""

    def __str__(self) -> str:
        numbers = ("" if x is None else f"{x:.3f}" for x in (self.made, self.true, self.chance))
        return f"{self.name:<{NAME_WIDTH}}" + "".join(f"{x:>10}" for x in numbers) + f"   {self.aim}"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


TITLE = f"{'':<{NAME_WIDTH}}{'made':>10}{'true':>10}{'chance':>10}   aim"


def sync_rows(
    name: str,
    made: SyncScores,
    true: SyncScores,
    chance: SyncScores,
    *,
    coverage: float | None = None,
    ratio: float | None = None,
    offset_ms: float | None = None,
    signed_ms: float | None = None,
) -> list[Row]:
    """Events of one kind against another's.

    Args:
        name: of the two kinds.
        made: in what was made.
        true: in true clips.
        chance: of shuffled pairs.
        coverage: aim of the share of clips with a pair.
        ratio: aim of the F1 over that of true clips.
        offset_ms: aim of the mean offset over that of true clips.
        signed_ms: aim of the signed offset.
    """
    aims = {
        "clips with a pair": "" if coverage is None else f">= {coverage:g}",
        "F1": "" if ratio is None else f">= {ratio * true.f1:.3f}",
        "mean |offset|, ms": "" if offset_ms is None else f"<= {true.mean_offset_ms + offset_ms:.1f}",
        "signed offset, ms": "" if signed_ms is None else f"within {signed_ms:g}",
    }
    return [
        Row(f"{name}: {measure}", *(values(s)[measure] for s in (made, true, chance)), aim)
        for measure, aim in aims.items()
    ] + [Row(f"{name}: F1 over that of true clips", made.f1 / true.f1, 1.0, chance.f1 / true.f1)]


def values(scores: SyncScores) -> dict[str, float]:
    """What the table says of scores."""
    return {
        "clips with a pair": scores.coverage,
        "F1": scores.f1,
        "mean |offset|, ms": scores.mean_offset_ms,
        "signed offset, ms": scores.signed_offset_ms,
    }


def obeys(found: Observed, wanted: Sequence[Seen]) -> dict[str, bool]:
    """Whether a clip is of what its caption says.

    Args:
        found: in the clip.
        wanted: the objects of the caption; an empty action is not said, and any will do.

    Returns:
        ``objects``: as many. ``colour``: of these materials by their hues. ``pitch``: the loudest materials
        by pitch, as many as there are objects, are these. ``action``: these actions. ``all``: all that, and
        each action by the object of its colour.
    """
    count = len(wanted)
    materials = sorted(body.material for body in wanted)
    left = Counter(body.action for body in found.seen)
    left.subtract(body.action for body in wanted if body.action)
    answers = {
        "objects": len(found.seen) == count,
        "colour": sorted(body.material for body in found.seen) == materials,
        "pitch": sorted(found.heard[:count]) == materials,
        "action": len(found.seen) == count and min(left.values(), default=0) >= 0,
    }
    together = all(
        any(body.material == own.material and body.action in ("", own.action) for own in found.seen)
        for body in wanted
    )
    return answers | {"all": all(answers.values()) and together}


def obedience(found: Sequence[Observed], wanted: Sequence[Sequence[Seen]]) -> dict[str, float]:
    """Share of clips that obey, by attribute."""
    each = [obeys(clip, bodies) for clip, bodies in zip(found, wanted, strict=True)]
    return {name: sum(answers[name] for answers in each) / len(each) for name in ATTRIBUTES}


def obedience_by_action(found: Sequence[Observed], wanted: Sequence[Sequence[Seen]]) -> dict[str, float]:
    """Share of clips that obey in everything, by what is to happen."""
    groups: dict[str, list[bool]] = {}
    for clip, bodies in zip(found, wanted, strict=True):
        name = bodies[0].action if len(bodies) == 1 else "two objects"
        groups.setdefault(name, []).append(obeys(clip, bodies)["all"])
    return {name: sum(answers) / len(answers) for name, answers in sorted(groups.items())}


def obedience_rows(
    made: Sequence[Observed],
    true: Sequence[Observed],
    wanted: Sequence[Sequence[Seen]],
    attributes: Mapping[str, str],
) -> list[Row]:
    """Lines of these attributes, each with its aim; chance is to obey the next clip's caption."""
    of_made, of_true = obedience(made, wanted), obedience(true, wanted)
    by_chance = obedience(made, [*wanted[1:], *wanted[:1]])
    return [
        Row(f"obeyed: {name}", of_made[name], of_true[name], by_chance[name], aim)
        for name, aim in attributes.items()
    ]
