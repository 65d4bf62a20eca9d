"""Do picture and sound happen together, and by how many milliseconds do they miss?

Onsets of the sound and events of the picture are found independently, paired one to one, and the pairs' time
differences measured. AV-Align counts coincidences within a frame, which is blind to 50 ms at 10 fps; the
mean difference is not, and its sign says who is late. The detectors' own errors are the floor: measure
them on clips whose events are known (`floor`), and give the scores of shuffled pairs beside (`shuffled`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pavdit.clip import Clip
from pavdit.metrics.onsets import sound_onsets
from pavdit.metrics.picture_events import picture_events

TOLERANCE_SECONDS = 0.2
"""Farther apart, two events are no pair."""


@dataclass(frozen=True, slots=True)
class Detected:
    """Events of one clip as found, each ``(N,)`` seconds, ascending."""

    sound: np.ndarray
    picture: np.ndarray


@dataclass(frozen=True, slots=True)
class SyncScores:
    """Of found times against others, over all clips.

    Attributes:
        clips: how many.
        found: events of the first kind (sound).
        wanted: events of the second kind (picture, or the truth).
        pairs: how many of these belong together.
        precision: pairs over found; nan without any.
        recall: pairs over wanted; nan without any.
        f1: ``2 pairs / (found + wanted)``; nan without any.
        mean_offset_ms: mean absolute difference in a pair; nan without any.
        signed_offset_ms: mean difference, first kind minus second: positive where sound is late.
        coverage: share of clips that have a pair at all.
    """

    clips: int
    found: int
    wanted: int
    pairs: int
    precision: float
    recall: float
    f1: float
    mean_offset_ms: float
    signed_offset_ms: float
    coverage: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def match_events(
    a: np.ndarray, b: np.ndarray, tolerance_seconds: float = TOLERANCE_SECONDS
) -> list[tuple[int, int]]:
    """Pair times one to one: as many pairs within the tolerance as there can be, of these the nearest.

    On sorted times an optimal matching never crosses, so this is the alignment of two sequences: row by row
    the best (pairs, -total difference) of every prefix.

    Args:
        a: ``(N,)`` seconds, ascending.
        b: ``(K,)`` seconds, ascending.
        tolerance_seconds: largest difference in a pair.

    Returns:
        Places ``(in a, in b)``, ascending.

    Raises:
        ValueError: the times are not ascending.
    """
    if (np.diff(a) < 0).any() or (np.diff(b) < 0).any():
        raise ValueError("match_events: want ascending times, got others")
    best = [[(0, 0.0)] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, time in enumerate(a, 1):
        for j, other in enumerate(b, 1):
            best[i][j] = max(best[i - 1][j], best[i][j - 1])
            if abs(time - other) <= tolerance_seconds:
                pairs, nearness = best[i - 1][j - 1]
                best[i][j] = max(best[i][j], (pairs + 1, nearness - abs(time - other)))
    found = []
    i, j = len(a), len(b)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((i, j))
    return found[::-1]


def score(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> SyncScores:
    """Hold the times of every clip against those that belong to it.

    Raises:
        ValueError: not as many of one as of the other.
    """
    if len(found) != len(wanted):
        raise ValueError(f"score: want as many clips of both, got {len(found)} and {len(wanted)}")
    per_clip = [
        [times[i] - others[j] for i, j in match_events(times, others)]
        for times, others in zip(found, wanted, strict=True)
    ]
    offsets_ms = 1e3 * np.array([offset for clip in per_clip for offset in clip])
    n, k, pairs = sum(map(len, found)), sum(map(len, wanted)), len(offsets_ms)
    nan = float("nan")
    return SyncScores(
        clips=len(found),
        found=n,
        wanted=k,
        pairs=pairs,
        precision=pairs / n if n else nan,
        recall=pairs / k if k else nan,
        f1=2 * pairs / (n + k) if n + k else nan,
        mean_offset_ms=float(np.abs(offsets_ms).mean()) if pairs else nan,
        signed_offset_ms=float(offsets_ms.mean()) if pairs else nan,
        coverage=sum(map(bool, per_clip)) / len(found) if found else nan,
    )


def detect(clip: Clip) -> Detected:
    """Find the events of a clip by ear and by eye, independently."""
    return Detected(
        sound_onsets(clip.wave.numpy(), clip.sample_rate),
        picture_events(clip.frames.numpy(), float(clip.fps)),
    )


def event_sync(clips: Iterable[Clip]) -> dict[str, SyncScores]:
    """How well sound and picture of clips go together.

    Returns:
        ``pairs``: sound against the picture of its own clip. ``shuffled``: against the next clip's, what
        unrelated clips of this kind get by chance.
    """
    return scores_of([detect(clip) for clip in clips])


def scores_of(detected: Sequence[Detected]) -> dict[str, SyncScores]:
    """`event_sync` of events that are found already."""
    sound, picture = [d.sound for d in detected], [d.picture for d in detected]
    return {"pairs": score(sound, picture), "shuffled": score(sound, picture[1:] + picture[:1])}


def floor(detected: Sequence[Detected], truth: Sequence[np.ndarray]) -> dict[str, SyncScores]:
    """The detectors' own errors: what each finds in clips whose event times are known.

    Returns:
        ``sound`` and ``picture``, each against the truth.
    """
    return {
        "sound": score([d.sound for d in detected], truth),
        "picture": score([d.picture for d in detected], truth),
    }
