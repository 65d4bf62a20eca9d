"""The sound's way to images and back never waits for the device, so that one graph can hold it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from waiting import PLACES, WAITING, NoWaiting

from pavdit.audio.invert import invert_mel
from pavdit.audio.mel import mel_images
from pavdit.clip import ClipSpec
from pavdit.config import MelConfig

CLIP = ClipSpec(num_frames=4, height=32, width=32)
MEL = MelConfig(n_mels=64)


def forward(x: Tensor) -> Tensor:
    return mel_images(x, CLIP, MEL)


def inverse(images: Tensor) -> Tensor:
    return invert_mel(images, CLIP, MEL, num_iterations=3)


def wave(device: str = "cpu") -> Tensor:
    noise = torch.randn(2, CLIP.num_samples, generator=torch.Generator().manual_seed(9))
    return (0.1 * noise).to(device)


@pytest.mark.parametrize("device", PLACES)
def test_nothing_waits(device: str) -> None:
    sound = wave(device)
    images = forward(sound)
    inverse(images)  # makes the tables
    with NoWaiting():
        forward(sound)
        inverse(images)


def test_nothing_waits_in_the_gradient() -> None:
    sound = wave().requires_grad_()
    forward(sound)
    with NoWaiting():
        torch.autograd.grad(forward(sound).sum(), sound)


BAD: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "branch": lambda x: bool(x.sum() > 0),
    "mask": lambda x: x[x > 0],
    "masked write": lambda x: x.clone().index_put_((x > 0,), torch.zeros(())),
    "nonzero": lambda x: x.nonzero(),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: x.unique(),
    "carried": lambda x: x.to("meta"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_the_check_sees_what_waits(bad: Callable[[Tensor], object]) -> None:
    x = torch.tensor([1.0, -2.0, 3.0])
    with pytest.raises(AssertionError, match=r"^want n|^want one device"), NoWaiting():
        bad(x)


@pytest.mark.parametrize("way", [forward, inverse])
def test_is_one_graph_for_other_values(way: Callable[[Tensor], Tensor]) -> None:
    first, second = wave(), wave().flip(1)
    if way is inverse:
        first, second = forward(first), forward(second)
    way(first)
    graph = make_fx(way)(first)
    names = {getattr(node.target, "__name__", "").partition(".")[0] for node in graph.graph.nodes}
    assert not names & WAITING
    assert torch.equal(graph(second), way(second))
