"""Spans appear in traces, and the pipeline names its stages."""

from __future__ import annotations

from pathlib import Path

import torch

from pavdit.pipeline import Pipeline
from pavdit.spans import span


def names_of(profile: torch.profiler.profile) -> list[str]:
    return [event.key for event in profile.key_averages()]


def test_a_span_is_in_the_trace_and_costs_nothing_else() -> None:
    with span("quiet"), torch.profiler.profile() as profile, span("loud"):
        torch.ones(1).add(1)
    assert "loud" in names_of(profile)
    assert "quiet" not in names_of(profile)


def test_an_error_passes() -> None:
    try:
        with span("fails"):
            raise KeyError("this")
    except KeyError as error:
        assert error.args == ("this",)


def test_the_pipeline_names_its_stages(nano_generator_run: Path) -> None:
    pipeline = Pipeline.from_pretrained(nano_generator_run, device="cpu")
    with torch.profiler.profile() as profile:
        [made] = pipeline(None, steps=2)
        pipeline.encode(made.clip)
    assert {"encode", "step", "decode", "inverse"} <= set(names_of(profile))
