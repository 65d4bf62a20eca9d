"""One evaluation: features of both sides, the numbers that can be computed of them, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from pavdit.clip import ClipSpec
from pavdit.evaluation import measures
from pavdit.evaluation.closest import closest
from pavdit.evaluation.features import (
    Extractor,
    FeatureCache,
    audio_extractor,
    av_align_extractor,
    events_extractor,
    i3d_extractor,
    look_extractor,
    yamnet_extractor,
)
from pavdit.evaluation.measures import Result, Sampling
from pavdit.evaluation.protocol import Protocol
from pavdit.evaluation.sets import BounceSet, EvaluationSet
from pavdit.metrics.av_align import SHORT_SIDE
from pavdit.metrics.networks import Network

SILENT = 10 ** (-60 / 20)
"""A sound whose peak is below it is none."""

FOOTAGE = "the picture's detector is made for few coloured objects before a plain wall, not for real footage"
"""Of event sync where nothing says that the clips are such."""


@dataclass(frozen=True, slots=True)
class Networks:
    """What is given; None: the numbers that want it are left out."""

    i3d: Network | None = None
    yamnet: Network | None = None
    audio: Network | None = None
    audio_rate: int | None = None
    """Of `audio`, where it is not the protocol's."""


@dataclass(slots=True)
class Report:
    """What came of an evaluation.

    Attributes:
        results: the numbers.
        left_out: measures that were not computed, and why.
        nearest: see `closest`; empty where it is left out.
    """

    results: list[Result] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    nearest: dict[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "results": [asdict(result) for result in self.results],
            "left_out": self.left_out,
            "nearest": self.nearest,
        }


class Comparison:
    """Generated clips against reference clips.

    Args:
        generated: one side.
        reference: the other.
        protocol: the rules.
        spec: sizes and rates of a clip.
        cache: of features.
        device: of the networks.
    """

    def __init__(
        self,
        generated: EvaluationSet,
        reference: EvaluationSet,
        protocol: Protocol,
        spec: ClipSpec,
        cache: FeatureCache,
        device: torch.device,
    ) -> None:
        self.sides: dict[str, EvaluationSet] = {"generated": generated, "reference": reference}
        self.keys = {side: clips.keys() for side, clips in self.sides.items()}
        self.protocol, self.spec, self.cache, self.device = protocol, spec, cache, device

    def run(self, networks: Networks, training: EvaluationSet | str, sampling: Sampling) -> Report:
        """Compute what can be computed.

        Args:
            networks: what is given.
            training: the clips that the generator was trained on, or why they are not compared.
            sampling: of the intervals.

        Raises:
            DataError: a side has no clip that can be read, or a network does not take the clips.
            OSError: the disk is full; what was computed before stays.
        """
        report = Report()
        self._nearest(report, training)
        self._networks(report, networks, sampling)
        version = self.protocol.av_align
        for side in self.sides:
            rows = self._rows(side, av_align_extractor(self.spec, version))
            title = f"AV-Align ({version}, {SHORT_SIDE} px), {side}"
            report.results.append(measures.of_av_align(rows, sampling, title))
        for side in self.sides:
            rows = self._rows(side, events_extractor(self.spec))
            footage = side == "generated" and not isinstance(self.sides["reference"], BounceSet)
            report.results += measures.of_events(rows, sampling, side, FOOTAGE if footage else "")
        return report

    def _rows(self, side: str, extractor: Extractor) -> dict[str, Tensor]:
        return self.cache.rows(self.sides[side], self.keys[side], self.spec, extractor, side)[1]

    def _networks(self, report: Report, networks: Networks, sampling: Sampling) -> None:
        rules, device = self.protocol, self.device
        if networks.i3d is None:
            report.left_out["FVD, KVD, IS-I3D"] = "want --i3d PATH"
        else:
            extractor = i3d_extractor(networks.i3d, rules.i3d_fit, device)
            a, b = (self._rows(side, extractor)["logits"] for side in self.sides)
            report.results += measures.of_logits(a, b, rules, sampling, networks.i3d)
        if networks.yamnet is None:
            report.left_out["FAD-YAMNet"] = "want --yamnet PATH"
        else:
            extractor = yamnet_extractor(networks.yamnet, device)
            a, b = (self._rows(side, extractor)["embedding"] for side in self.sides)
            report.results.append(measures.frechet("FAD-YAMNet", a, b, rules, sampling, networks.yamnet))
        if networks.audio is None:
            report.left_out["FAD"] = f"want --audio-network PATH ({rules.fad.network} in this protocol)"
        else:
            fad = rules.fad
            if networks.audio_rate is not None:
                fad = fad.model_copy(update={"sample_rate": networks.audio_rate})
            extractor = audio_extractor(networks.audio, fad, device)
            a, b = (self._rows(side, extractor)["embedding"] for side in self.sides)
            a, b = (x if x.ndim == 3 else x[:, None] for x in (a, b))
            result = measures.frechet("FAD", a, b, rules, sampling, networks.audio, fad.scale)
            report.results.append(result)

    def _nearest(self, report: Report, training: EvaluationSet | str) -> None:
        look = look_extractor(self.spec)
        looks: dict[str, tuple[EvaluationSet, list[int], Tensor]] = {}
        for side, clips in self.sides.items():
            places, rows = self.cache.rows(clips, self.keys[side], self.spec, look, side)
            looks[side] = clips, places, rows["look"]
            silent = int((rows["peak"] < SILENT).sum())
            note = f"{silent} of {len(places)} clips are silent"
            if silent and note not in clips.notes:  # the reference is compared with every system
                clips.notes.append(note)
            if len(places) < 2:
                raise ValueError(f"{side}: want at least 2 clips that can be read, got {len(places)}")
        if isinstance(training, str):
            report.left_out["nearest training clip"] = training
            return
        places, rows = self.cache.rows(training, training.keys(), self.spec, look, "training")
        report.nearest = closest(
            looks["generated"], looks["reference"][2], (training, places, rows["look"]), self.spec.num_frames
        )


def described(clips: EvaluationSet) -> Mapping[str, object]:
    """A side, for JSON."""
    return {"about": clips.about, "clips": len(clips), "notes": clips.notes, "left_out": clips.left_out}
