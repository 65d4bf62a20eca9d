"""The sound's way to images and back never waits for the device, so that one graph can hold it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pavdit.audio.invert import invert_mel
from pavdit.audio.mel import mel_images
from pavdit.clip import ClipSpec
from pavdit.config import MelConfig

CLIP = ClipSpec(num_frames=4, height=32, width=32)
MEL = MelConfig(n_mels=64)
WAITING = {
    "_local_scalar_dense",
    "is_nonzero",
    "item",
    "nonzero",
    "nonzero_numpy",
    "argwhere",
    "masked_select",
    "equal",
    "allclose",
    "unique_dim",
    "unique_consecutive",
    "_unique",
    "_unique2",
    "repeat_interleave",
}
"""Whose result has a size, or is a number, that depends on values."""


class NoWaiting(TorchDispatchMode):
    """Fails where an operation would wait for the device, or carries values to another one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in WAITING:
            raise AssertionError(f"want nothing that waits for the device, got {func}")
        if name.startswith("index") and any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:]):
            raise AssertionError(f"want no indexing by a mask, got {func}")
        out = func(*args, **(kwargs or {}))
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        devices = {t.device for t in (*tensors, *results) if t.ndim > 0}
        if len(devices) > 1:
            raise AssertionError(f"want one device, got {func} on {sorted(map(str, devices))}")
        return out


def forward(x: Tensor) -> Tensor:
    return mel_images(x, CLIP, MEL)


def inverse(images: Tensor) -> Tensor:
    return invert_mel(images, CLIP, MEL, num_iterations=3)


def wave(device: str = "cpu") -> Tensor:
    noise = torch.randn(2, CLIP.num_samples, generator=torch.Generator().manual_seed(9))
    return (0.1 * noise).to(device)


PLACES = [
    "cpu",
    "meta",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


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
