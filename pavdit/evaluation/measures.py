"""From features to numbers, each with its interval, its counts of clips, and the network that measured it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from pavdit.evaluation.intervals import Draw, bootstrap, frechet_draw, kernel_draw, ratio_draw
from pavdit.evaluation.protocol import Protocol
from pavdit.metrics.event_sync import match_events
from pavdit.metrics.kernel_distance import kernel_distance
from pavdit.metrics.networks import Network
from pavdit.metrics.probabilities import inception_score
from pavdit.progress import progress

CURVE_SHARES = (8, 4, 2)
"""A Fréchet distance falls with the number of clips; its curve has these parts of them, and all."""

Rows = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Result:
    """A number.

    Attributes:
        name: of the measure.
        value: nan where it is not defined.
        low: of the 95 % interval; nan without one.
        high: as `low`.
        generated: how many clips it is of.
        reference: how many it is compared with; 0 where it is of the generated ones alone.
        network: name and sha256 of what it was measured with; empty without one.
        notes: what a reader should know of this number.
        curve: clips and the number of the first so many of either side, where that was computed.
    """

    name: str
    value: float
    low: float
    high: float
    generated: int
    reference: int = 0
    network: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How intervals are drawn."""

    draws: int
    seed: int
    console: Console | None = None
    """Where progress is shown: with thousands of clips, draws of wide features take minutes."""

    def result(
        self,
        name: str,
        value: float,
        draw: Draw,
        counts: tuple[int, int],
        *,
        network: Network | None = None,
        notes: tuple[str, ...] = (),
        curve: tuple[tuple[int, float], ...] = (),
        scale: float = 1.0,
        moved: bool = False,
    ) -> Result:
        """A number times `scale`, with its interval."""
        shown = nullcontext() if self.console is None else progress(self.console, f"{name}: interval")
        with shown as tell:
            interval = bootstrap(value, draw, counts, self.draws, self.seed, moved=moved, tell=tell)
        return Result(
            name,
            scale * value,
            scale * interval.low,
            scale * interval.high,
            counts[0],
            counts[1],
            None if network is None else network.described(),
            notes,
            tuple((n, scale * x) for n, x in curve),
        )


def frechet(
    name: str,
    a: Tensor,
    b: Tensor,
    protocol: Protocol,
    sampling: Sampling,
    network: Network,
    scale: float = 1.0,
) -> Result:
    """Fréchet distance of features ``(N, K, D)`` and ``(M, K, D)``, K of every clip."""
    biased = protocol.covariance == "n"

    def distance(draw: Draw, n: int, m: int) -> float:
        ones = torch.ones(n, dtype=torch.float64), torch.ones(m, dtype=torch.float64)
        return max(0.0, draw(*ones))  # equal sets give rounding, of either sign

    fewest, width = min(len(a), len(b)) * a.shape[1], a.shape[2]
    notes: tuple[str, ...] = ()
    if fewest <= width:
        notes = (f"{fewest} features of {width} dimensions: rank deficient, biased upwards",)
    counts = len(a), len(b)
    smaller = [min(counts) // share for share in CURVE_SHARES]
    draw = frechet_draw(a, b, biased=biased)
    value = distance(draw, *counts)
    curve = [
        (n, value if n == max(counts) else distance(frechet_draw(a[:n], b[:n], biased=biased), n, n))
        for n in (*smaller, min(counts))
        if n >= 2
    ]
    return sampling.result(
        name, value, draw, counts, network=network, notes=notes, curve=tuple(curve), scale=scale, moved=True
    )


def of_logits(a: Tensor, b: Tensor, protocol: Protocol, sampling: Sampling, network: Network) -> list[Result]:
    """FVD, KVD and IS-I3D of I3D's logits ``(N, 400)``."""
    kvd = sampling.result("KVD", kernel_distance(a, b), kernel_draw(a, b), (len(a), len(b)), network=network)
    splits = min(protocol.inception_splits, len(a))
    score, spread = inception_score(a.double().softmax(dim=1), splits)
    note = f"standard deviation {spread:.3f} over {splits} runs" if splits > 1 else "one run"
    nan = float("nan")
    inception = Result("IS-I3D", score, nan, nan, len(a), 0, network.described(), (note,))
    return [frechet("FVD", a[:, None], b[:, None], protocol, sampling, network), kvd, inception]


def mean(name: str, values: Tensor, sampling: Sampling, undefined: str = "") -> Result:
    """Mean over clips ``(N,)``; those that are nan are left out and counted in a note with `undefined`."""
    good = values[~values.isnan()]
    missing = len(values) - len(good)
    notes = (f"{missing} of {len(values)} clips {undefined}",) if missing else ()
    if not len(good):
        nan = float("nan")
        return Result(name, nan, nan, nan, 0, notes=notes)
    draw = ratio_draw(good, torch.ones_like(good))
    return sampling.result(name, float(good.double().mean()), draw, (len(good), 0), notes=notes)


def of_av_align(rows: Rows, sampling: Sampling, name: str) -> Result:
    """AV-Align, mean over the clips that have an onset or a peak."""
    union = rows["onsets"] + rows["peaks"] - rows["coinciding"]
    score = torch.where(union > 0, rows["coinciding"] / union, torch.nan)
    return mean(name, score, sampling, "have neither onset nor motion, or no union of them")


def of_events(rows: Rows, sampling: Sampling, side: str, note: str = "") -> list[Result]:
    """Event sync (`pavdit.metrics.event_sync`), beside that of the sound with the next clip's picture."""
    notes = (note,) if note else ()

    def times(row: Tensor) -> np.ndarray:
        return row[~row.isnan()].double().numpy()

    sound, picture = ([times(row) for row in rows[kind]] for kind in ("sound", "picture"))
    results = []
    for kind, others in (("", picture), (", unrelated pairs", picture[1:] + picture[:1])):
        if kind and len(sound) < 2:
            continue
        offsets = [[a[i] - b[j] for i, j in match_events(a, b)] for a, b in zip(sound, others, strict=True)]
        pairs = torch.tensor([float(len(found)) for found in offsets])
        events = torch.tensor([float(len(a) + len(b)) for a, b in zip(sound, others, strict=True)])
        missed = torch.tensor([1e3 * float(np.abs(found).sum()) for found in offsets])
        counts = len(sound), 0
        for name, above, below in (("F1", 2 * pairs, events), ("mean offset, ms", missed, pairs)):
            draw = ratio_draw(above, below)
            ones = torch.ones(len(sound), dtype=torch.float64)
            title = f"event sync, {side}: {name}{kind}"
            results.append(sampling.result(title, draw(ones, ones), draw, counts, notes=notes))
            notes = ()
    return results
