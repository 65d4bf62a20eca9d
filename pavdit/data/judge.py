"""What is wrong with measured files: reasons, by limits that a user may change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pavdit.data.inspect import MOMENTS, Measured

REASONS = (
    "damaged",
    "no sound",
    "no picture",
    "too short",
    "drifting",
    "silent",
    "black",
    "frozen",
    "duplicate",
)
STREAM_MISSING = {"want an audio stream, got none": "no sound", "want a video stream, got none": "no picture"}
STATED_SLACK_SECONDS = 0.15
"""A last frame that stays longer, or a packet of sound more or less, is no damage."""
SLIP_SHARE = 0.01
"""Joined recordings lose milliseconds at each join; a clock at another speed loses more than this share."""
SIGNATURE_BITS = 2 * 7 * 8 * len(MOMENTS)
BANDS = 16
"""A copy differs in fewer bits than there are bands, so one band of its signature is the original's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a file is a bad one.

    Attributes:
        min_seconds: of picture and sound together.
        max_share: of a file may be silent, black or frozen.
        max_drift_seconds: between the ends of picture and sound.
    """

    min_seconds: float = 1.6
    max_share: float = 0.95
    max_drift_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a file.

    Attributes:
        reason: one of `REASONS`.
        detail: what was wanted and what came.
    """

    reason: str
    detail: str


def judge(measured: Measured, limits: Limits) -> list[Finding]:
    """Everything that is wrong with one file, but for being a copy."""
    if measured.error:
        return [Finding(STREAM_MISSING.get(measured.error, "damaged"), measured.error)]
    found = [*_against_its_index(measured)]
    if measured.seconds < limits.min_seconds - STATED_SLACK_SECONDS / 100:
        found.append(
            Finding(
                "too short",
                f"want {limits.min_seconds:g} s of picture and sound, got {measured.seconds:.3f} s",
            )
        )
    found += _drift(measured, limits)
    for reason, share in (
        ("silent", measured.silent),
        ("black", measured.black),
        ("frozen", measured.frozen),
    ):
        if share > limits.max_share:
            found.append(Finding(reason, f"want at most {limits.max_share:.0%} of it, got {share:.1%}"))
    return found


def _against_its_index(measured: Measured) -> Iterable[Finding]:
    """Where the container states another number of frames or another length than what decodes."""
    if measured.num_frames != measured.due_frames:
        yield Finding("damaged", f"want {measured.due_frames} frames, got {measured.num_frames}")
    for name, got, stated in (
        ("picture", measured.video, measured.stated_video),
        ("sound", measured.audio, measured.stated_audio),
    ):
        if max(abs(a - b) for a, b in zip(got, stated, strict=True)) > STATED_SLACK_SECONDS:
            yield Finding(
                "damaged",
                f"want {name} from {stated[0]:.3f} to {stated[1]:.3f} s as stated, "
                f"got {got[0]:.3f} to {got[1]:.3f} s",
            )


def _drift(measured: Measured, limits: Limits) -> Iterable[Finding]:
    difference = measured.video[1] - measured.audio[1]
    if abs(difference) > limits.max_drift_seconds:
        yield Finding(
            "drifting",
            f"want picture and sound to end within {limits.max_drift_seconds:g} s of each other, got "
            f"{measured.video[1]:.3f} and {measured.audio[1]:.3f} s",
        )
    length = measured.audio[1] - measured.audio[0]
    if measured.audio_slip > max(STATED_SLACK_SECONDS, SLIP_SHARE * length):
        yield Finding(
            "drifting",
            f"want stamps that go with {measured.sample_rate} samples a second, "
            f"got {measured.audio_slip:.3f} s between them",
        )


def copies(signatures: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (original, copy) of signatures that agree in all but less than `BANDS` bits; the first one wins.

    Two such signatures have one of `BANDS` bands in common, so only those are compared that share a band.
    """
    width = SIGNATURE_BITS // BANDS
    seen: dict[tuple[int, int], list[int]] = defaultdict(list)
    numbers = [int(text, 16) if text else None for text in signatures]
    pairs = []
    for index, number in enumerate(numbers):
        if number is None:
            continue
        bands = [(k, number >> (k * width) & ((1 << width) - 1)) for k in range(BANDS)]
        fellows = sorted({other for band in bands for other in seen[band]})
        original = next((o for o in fellows if (number ^ (numbers[o] or 0)).bit_count() < BANDS), None)
        if original is not None:
            pairs.append((original, index))
            continue  # whatever looks like this one looks like the original, or is compared with it first
        for band in bands:
            seen[band].append(index)
    return pairs
