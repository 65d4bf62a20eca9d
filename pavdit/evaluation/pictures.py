"""Pictures of an evaluation: clips of both sides to look at, Fréchet distances over the number of clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.config import MelConfig
from pavdit.contact_sheet import contact_sheet
from pavdit.evaluation.measures import Result
from pavdit.evaluation.sets import EvaluationSet
from pavdit.files import replacing
from pavdit.media.picture import write_png

SHOWN = 8
"""Clips of either side on the sheet."""


def _some(clips: EvaluationSet) -> Iterator[Clip]:
    for place in range(len(clips)):
        try:
            yield clips.read(place)
        except DataError:  # the set has noted it
            continue


def draw_sheet(sides: Sequence[EvaluationSet], spec: ClipSpec, path: Path) -> None:
    """The first clips of each side after the other, with their mel images.

    Raises:
        OSError: the directory is missing or full.
    """
    shown = [clip for side in sides for clip in islice(_some(side), SHOWN)]
    write_png(contact_sheet(shown, spec, MelConfig(n_mels=64)), path)


def draw_curves(systems: Mapping[str, Sequence[Result]], path: Path) -> str:
    """Fréchet distances over the number of clips, if there are any; each with its system's name if several.

    Returns:
        Why there is no picture; empty if there is one.

    Raises:
        OSError: the directory is missing or full.
    """
    curves = [
        replace(result, name=f"{name}: {result.name}") if len(systems) > 1 else result
        for name, results in systems.items()
        for result in results
        if len(result.curve) > 1
    ]
    if not curves:
        return "no Fréchet distance was computed"
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return "want matplotlib (pip install matplotlib)"
    figure = Figure(figsize=(4.5 * len(curves), 3.5), layout="constrained")
    for axes, result in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        counts, values = zip(*result.curve, strict=True)
        axes.plot(counts, values, marker="o")
        if result.low == result.low:  # not nan
            axes.errorbar(
                counts[-1],
                result.value,
                [[result.value - result.low], [result.high - result.value]],
                capsize=4,
            )
        axes.set(title=result.name, xlabel="clips of either side", xscale="log", ylim=(0, None))
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.minorticks_off()
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=120)
    return ""
