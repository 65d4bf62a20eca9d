"""A batch's velocity: nothing a step does is done twice, and graphed steps are the same steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from nano import nano
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pavdit.config import TASKS
from pavdit.flow.graph import Graphs
from pavdit.latents import PlaneLayout
from pavdit.options import SamplingOptions
from pavdit.sampling import BoundVelocity, Captions, sample_batch
from pavdit.stdit import STDiT

STEPS = 3


@pytest.fixture(scope="module")
def stdit() -> STDiT:
    torch.manual_seed(0)
    config = nano()
    model = STDiT(config.stdit, PlaneLayout.choose(config.grid), config.mdsa.latent_channels)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def bound(stdit: STDiT, task: str = "t2av", batch: int = 2, scale: float = 4.0) -> BoundVelocity:
    tokens = torch.randn(batch, 8, stdit.config.text_dim, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(8) < torch.tensor([[8], [3]])[:batch]
    options = SamplingOptions(task, STEPS, scale, guidance_interval=(0.2, 1.0))
    return BoundVelocity(stdit, Captions(tokens, mask, known=True), options, fps=10.0)


def noise_for(stdit: STDiT, batch: int = 2) -> Tensor:
    layout = stdit.layout
    shape = batch, stdit.latent_channels, layout.num_frames, layout.rows, layout.columns
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


def run(stdit: STDiT, task: str, graphs: Graphs | None, scale: float = 4.0) -> Tensor:
    target = {"v2a": "audio", "a2v": "video", "t2v": "video", "t2a": "audio"}.get(task)
    return sample_batch(
        bound(stdit, task, scale=scale),
        noise_for(stdit),
        target=None if target is None else stdit.layout.frames_of(target),
        graphs=graphs,
    )


def called(function: Callable[[], None]) -> Callable[[], None]:
    function()
    return function


@pytest.mark.parametrize("task", TASKS)
def test_graphed_steps_give_the_same_bits(stdit: STDiT, task: str) -> None:
    graphs = Graphs(capture=called)
    assert torch.equal(run(stdit, task, graphs), run(stdit, task, None))
    assert graphs.captures == 2  # the interval makes steps with and without guidance
    assert torch.equal(run(stdit, task, graphs, scale=2.0), run(stdit, task, None, scale=2.0))
    assert graphs.captures == 2  # the scale is an input


def test_threads_take_turns_with_the_buffers_of_a_graph(stdit: STDiT) -> None:
    graphs = Graphs(capture=called)
    scales = [1.5, 2.0, 3.0, 4.0]
    with ThreadPoolExecutor(len(scales)) as pool:
        together = list(pool.map(lambda scale: run(stdit, "t2av", graphs, scale), scales))
    for scale, latent in zip(scales, together, strict=True):
        assert torch.equal(latent, run(stdit, "t2av", None, scale))


def test_other_shapes_are_other_graphs(stdit: STDiT) -> None:
    graphs = Graphs(capture=called)
    for batch in (1, 2, 1):
        sample_batch(bound(stdit, batch=batch), noise_for(stdit, batch), target=None, graphs=graphs)
    assert graphs.captures == 4  # with and without guidance


def test_other_weights_are_another_graph(stdit: STDiT) -> None:
    graphs = Graphs(capture=called)
    run(stdit, "t2av", graphs)
    stdit.final.bias.add_(0.125)
    assert torch.equal(run(stdit, "t2av", graphs), run(stdit, "t2av", None))
    assert graphs.captures == 4


@pytest.mark.parametrize("task", TASKS)
def test_velocity_is_that_of_the_network_with_all_its_arguments(stdit: STDiT, task: str) -> None:
    velocity = bound(stdit, task)
    captions = velocity.captions
    given = {"v2a": 0, "a2v": 1}.get(task)
    times = torch.full((2, 2), 1 / STEPS)
    clean = torch.zeros(2, 2, dtype=torch.bool)
    if given is not None:
        clean[:, given] = True
    still = {"t2v": 1, "t2a": 0}.get(task)
    if still is not None:
        times[:, still] = 0.0
    latent = noise_for(stdit)
    parts = [
        stdit(
            latent,
            times,
            captions.tokens,
            text_mask=captions.mask,
            drop_text=torch.tensor([drop, drop]),
            task=torch.full((2,), TASKS.index(task)),
            clean=clean,
            fps=torch.full((2,), 10.0),
        )
        for drop in (False, True)
    ]
    got = velocity(latent, 1 / STEPS, True)
    assert (got - torch.cat(parts)).abs().max() <= 1e-5
    assert (velocity(latent, 1 / STEPS, False) - parts[0]).abs().max() <= 1e-5


class Weights(TorchDispatchMode):
    """Records which parameters a step reads."""

    def __init__(self, model: STDiT) -> None:
        super().__init__()
        self.names = {p.data_ptr(): name for name, p in model.named_parameters()}
        self.read: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        for argument in args:
            if isinstance(argument, Tensor) and argument.data_ptr() in self.names:
                self.read.add(self.names[argument.data_ptr()])
        return func(*args, **(kwargs or {}))


def test_a_step_computes_nothing_that_is_the_same_in_every_step(stdit: STDiT) -> None:
    velocity, latent = bound(stdit), noise_for(stdit)
    with torch.no_grad(), Weights(stdit) as weights:
        velocity(latent, 1 / STEPS, True)
    constant = (
        "caption.",
        "task.",
        "timestep.",
        "fps.",
        "shared_modulation.",
        "cross.kv.",
        "plane_embedding",
        "table",
    )
    assert any("cross.q." in name for name in weights.read)
    assert [name for name in weights.read if any(part in name for part in constant)] == []
