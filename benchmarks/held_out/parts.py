"""The parts of `benchmarks/bounce.py` that make clips and look for events and captions in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.held_out.make import generate, reconstruct
from benchmarks.held_out.observe import Host, Source
from benchmarks.held_out.scores import ATTRIBUTES, Row, obedience_by_action, obedience_rows, sync_rows
from pavdit.clip import Clip
from pavdit.data.bounce.recognise import Seen
from pavdit.metrics.event_sync import SyncScores, floor, score, scores_of
from pavdit.options import Choices
from pavdit.pipeline import Pipeline

SAMPLE_SEED = 1_000_000
"""Of the first sample."""

Outcome = tuple[list[Row], dict[str, object]]
"""Lines of the table, and what else the JSON says."""


class HeldOut:
    """Held-out clips, and what the models make of them; what several parts need is made once.

    Args:
        pipe: the models.
        choices: how they sample, where it is not as configured.
        host: the processes.
        source: of the held-out clips.
        count: how many clips.
        left: seconds that are left.
    """

    def __init__(
        self,
        pipe: Pipeline,
        choices: Choices,
        host: Host,
        source: Source,
        count: int,
        left: Callable[[], float],
    ) -> None:
        self.pipe, self.choices, self.host, self.source, self.left = pipe, choices, host, source, left
        self.true = host.true_clips(source, range(count))
        self.clips = [true.clip for true in self.true]
        self.truth = [true.truth for true in self.true]
        self.bodies = [true.bodies for true in self.true]
        self.found = [true.found for true in self.true]
        self.sync = scores_of([found.events for found in self.found])
        self.floor = floor([found.events for found in self.found], self.truth)
        self.prompts, self.wanted = self._captions()
        self._samples: list[Clip] = []

    def _captions(self) -> tuple[list[str], list[tuple[Seen, ...]]]:
        """What the generator is told of every clip, and the objects that this names."""
        generator = self.pipe.generator
        if generator is None or not generator.text.class_names:
            return [clip.caption for clip in self.clips], self.bodies
        wanted = [  # a class of two objects does not say what they do
            bodies if len(bodies) == 1 else tuple(replace(body, action="") for body in bodies)
            for bodies in self.bodies
        ]
        return [clip.label for clip in self.clips], wanted

    def detectors(self) -> dict[str, object]:
        """What the detectors find in true clips."""
        return as_dicts(self.sync | self.floor)

    def samples(self) -> list[Clip]:
        """One for every caption."""
        if not self._samples:
            self._samples = generate(self.pipe, self.choices, "t2av", self.prompts, SAMPLE_SEED)
        return self._samples

    def reconstruction(self) -> Outcome:
        """Through the autoencoder and back."""
        again, db = reconstruct(self.pipe, self.clips)
        found = self.host.observe(again)
        events = [clip.events for clip in found]
        own, sync = floor(events, self.truth), scores_of(events)
        rows = [
            Row("video PSNR, dB", db["video_psnr_db"], None, db["mean_clip_video_psnr_db"], ">= 30"),
            Row("mel image PSNR, dB", db["mel_psnr_db"], None, db["mean_clip_mel_psnr_db"], ">= 28"),
        ]
        for kind, scores in own.items():
            chance = score([getattr(clip, kind) for clip in events], following(self.truth))
            rows += sync_rows(f"{kind} to truth", scores, self.floor[kind], chance, offset_ms=5)
        rows += sync_rows(
            "sound to picture", sync["pairs"], self.sync["pairs"], sync["shuffled"], offset_ms=5
        )
        rows += obedience_rows(found, self.found, self.bodies, dict.fromkeys(ATTRIBUTES, ""))
        return rows, {"scores": as_dicts(own | sync)}

    def t2av(self) -> Outcome:
        """From captions."""
        found = self.host.observe(self.samples())
        sync = scores_of([clip.events for clip in found])
        rows = sync_rows(
            "sound to picture",
            sync["pairs"],
            self.sync["pairs"],
            sync["shuffled"],
            coverage=0.8,
            ratio=0.6,
            offset_ms=25,
            signed_ms=10,
        )
        rows += obedience_rows(found, self.found, self.wanted, dict.fromkeys(ATTRIBUTES, ">= 0.8"))
        made, true = (obedience_by_action(clips, self.wanted) for clips in (found, self.found))
        rows += [Row(f"obeyed: all, {name}", share, true[name]) for name, share in made.items()]
        return rows, {"scores": as_dicts(sync)}

    def v2a(self) -> Outcome:
        """From a picture, with its caption and without."""
        return self._given("v2a", "sound", "picture", ("pitch",))

    def a2v(self) -> Outcome:
        """From a sound, with its caption and without."""
        return self._given("a2v", "picture", "sound", ("objects", "colour", "action"))

    def _given(self, task: str, kind: str, given_kind: str, attributes: Sequence[str]) -> Outcome:
        given = [getattr(found.events, given_kind) for found in self.found]
        in_true = score([getattr(found.events, kind) for found in self.found], given)
        rows: list[Row] = []
        scores: dict[str, SyncScores] = {}
        for how, prompts in (("caption", self.prompts), ("no caption", None)):
            found = self.host.observe(
                generate(self.pipe, self.choices, task, prompts, SAMPLE_SEED, self.clips)
            )
            times = [getattr(clip.events, kind) for clip in found]
            for name, wanted, true in (
                (f"{kind} to given {given_kind}", given, in_true),
                (f"{kind} to truth", self.truth, self.floor[kind]),
            ):
                own, chance = score(times, wanted), score(times, following(wanted))
                scores |= {f"{how}: {name}": own, f"{how}: {name}, shuffled": chance}
                rows += sync_rows(f"{how}: {name}", own, true, chance, ratio=0.75)
            for row in obedience_rows(found, self.found, self.bodies, dict.fromkeys(attributes, "")):
                rows.append(replace(row, name=f"{how}: {row.name}"))
        return rows, {"scores": as_dicts(scores)}


def following(items: Sequence[object]) -> list:
    """Everything's next, of the last one the first: what belongs to another clip."""
    return [*items[1:], *items[:1]]


def as_dicts(scores: dict[str, SyncScores]) -> dict[str, object]:
    """For JSON."""
    return {name: s.as_dict() for name, s in scores.items()}
