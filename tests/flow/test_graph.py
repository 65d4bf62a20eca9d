"""Captured steps: buffers of their own, few are kept, contents are loaded, what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from pavdit.flow.graph import CudaCapture, Graphs, call, version_of


class CountingCapture:
    """Stands for a graph where there is no device: replays by calling."""

    def __init__(self) -> None:
        self.warm_ups = 0

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        self.warm_ups += 1
        function()
        return function


def add(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    inputs["latent"].add_(inputs["dt"])
    return {"latent": inputs["latent"]}


def example(value: float, rows: int = 2) -> dict[str, Tensor]:
    return {"latent": torch.full((rows, 3), value), "dt": torch.tensor(0.25)}


def test_a_replay_works_on_what_was_loaded_and_nothing_escapes() -> None:
    graphs = Graphs(capture=CountingCapture())
    first = example(1.0)
    step = graphs.get("a", add, first)
    step.replay()
    out = torch.empty(2, 3)
    step.store("latent", out)
    assert torch.equal(out, torch.full((2, 3), 1.25))  # the warm-up left nothing behind
    assert torch.equal(first["latent"], torch.ones(2, 3))
    step.load(latent=torch.zeros(2, 3), dt=torch.tensor(1.0))
    step.replay()
    assert torch.equal(out, torch.full((2, 3), 1.25))
    step.store("latent", out)
    assert torch.equal(out, torch.ones(2, 3))


def test_the_same_key_is_captured_once_and_loaded_anew() -> None:
    graphs = Graphs(capture=CountingCapture())
    assert graphs.get("a", add, example(1.0)) is graphs.get("a", add, example(2.0))
    assert graphs.captures == 1
    step = graphs.get("a", add, example(5.0))
    step.replay()
    assert step.buffers["latent"][0, 0] == 5.25


def test_other_shapes_are_captured_for_themselves() -> None:
    graphs = Graphs(capture=CountingCapture())
    assert graphs.get("a", add, example(1.0)) is not graphs.get("a", add, example(1.0, rows=3))
    assert graphs.captures == 2


def test_a_call_gives_results_that_no_later_call_changes() -> None:
    graphs = Graphs(capture=CountingCapture())
    for kept in (graphs, None):
        first = call(kept, "a", add, example(1.0))["latent"]
        call(kept, "a", add, example(7.0))
        assert torch.equal(first, torch.full((2, 3), 1.25))
    assert graphs.captures == 1


def test_weights_that_moved_or_changed_have_another_version() -> None:
    weights = [torch.ones(3), torch.ones(2)]
    before = version_of(weights)
    assert version_of(weights) == before
    weights[1].add_(1)
    changed = version_of(weights)
    assert version_of([weights[0], weights[1].clone()]) != changed != before


def test_only_the_last_used_are_kept() -> None:
    graphs = Graphs(capacity=2, capture=CountingCapture())
    first = graphs.get("a", add, example(0.0))
    graphs.get("b", add, example(0.0))
    assert graphs.get("a", add, example(0.0)) is first
    graphs.get("c", add, example(0.0))
    assert len(graphs) == 2
    assert graphs.get("a", add, example(0.0)) is first
    graphs.get("b", add, example(0.0))
    assert graphs.captures == 4
    graphs.clear()
    assert len(graphs) == 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"latent": torch.zeros(3, 3)},
            r"graph: latent: want \(2, 3\) .* got \(3, 3\) ",
        ),
        (
            {"latent": torch.zeros(2, 3, dtype=torch.float64)},
            r"want .* torch.float32, got .* torch.float64",
        ),
        ({"noise": torch.zeros(1)}, r"graph: noise: want no such input, got \(1,\) torch.float32"),
    ],
)
def test_what_does_not_fit_is_named(inputs: dict[str, Tensor], message: str) -> None:
    step = Graphs(capture=CountingCapture()).get("a", add, example(0.0))
    with pytest.raises(ValueError, match=message):
        step.load(**inputs)


def test_capacity_must_hold_a_step() -> None:
    with pytest.raises(ValueError, match="graph: want capacity >= 1, got 0"):
        Graphs(capacity=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_graphs_give_the_same_bits() -> None:
    graphs = Graphs(capture=CudaCapture())
    inputs = {name: tensor.cuda() for name, tensor in example(1.0).items()}
    step = graphs.get("a", add, inputs)
    for _ in range(3):
        step.replay()
    assert torch.equal(step.buffers["latent"].cpu(), torch.full((2, 3), 1.75))
