"""`exact` is one clip however it is computed: native or not, compiled or not, as graphs or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from numerics import assert_same_latents

from pavdit.flow.graph import Graphs
from pavdit.ops import _library
from pavdit.pipeline import Generated, Pipeline
from pavdit.provenance import is_same_clip

STEPS, CLIPS = 30, 2


def make(pipeline: Pipeline) -> list[Generated]:
    """Two clips with a prompt, guided."""
    return pipeline(pipeline.config.text.class_names[0], n=CLIPS, seed=4, steps=STEPS)


@pytest.fixture(scope="module")
def pipeline(nano_generator_run) -> Pipeline:
    return Pipeline.from_pretrained(nano_generator_run, device="cpu")


@pytest.fixture(scope="module")
def exact(pipeline) -> list[Generated]:
    return make(pipeline)


def assert_same_clips(got: list[Generated], want: list[Generated]) -> None:
    for one, other in zip(got, want, strict=True):
        assert_same_latents(one.latent, other.latent)
        assert is_same_clip(one.provenance, other.provenance)
        assert (one.clip.frames.int() - other.clip.frames.int()).abs().max() <= 1  # a byte of 255


def test_without_native_ops(pipeline, exact, monkeypatch) -> None:
    monkeypatch.setattr(_library, "_native", dict.fromkeys(_library._native, frozenset()))
    assert_same_clips(make(pipeline), exact)


def test_compiled(nano_generator_run, exact, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled = Pipeline.from_pretrained(nano_generator_run, device="cpu", compile=True)
    compiled.warm_up(compiled.config.text.class_names[0], batch_size=CLIPS)
    codes = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert_same_clips(make(compiled), exact)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == codes  # all was done ahead
    assert compiled.stats["compile"] == f"on: as asked; cache {tmp_path}"


def called(function: Callable[[], None]) -> Callable[[], None]:
    function()
    return function


def test_graphs_give_the_same_bits(nano_generator_run, exact) -> None:
    graphed = Pipeline.from_pretrained(nano_generator_run, device="cpu")
    graphed.graphs = graphed.codec.graphs = Graphs(capture=called)
    for _ in range(2):
        for one, other in zip(make(graphed), exact, strict=True):
            assert torch.equal(one.latent, other.latent)
            assert torch.equal(one.clip.frames, other.clip.frames)
            assert torch.equal(one.clip.wave, other.clip.wave)
    assert graphed.graphs.captures == 3  # a step, decode, the sound's inverse
