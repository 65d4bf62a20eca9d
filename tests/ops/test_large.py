"""Tensors of more than 2^31 elements: every native op that can have them, forward, in bfloat16.

An offset that was computed in 32 bits shows here. A block of random samples is repeated along the batch; its
length is a prime number of samples, so that no wrapped offset meets the same numbers. Sampled results, around
the element 2^31 above all, are compared with the reference's. Needs up to 16 GB.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_loops import angles
from numerics import assert_no_worse
from torch import Tensor

import pavdit.ops
from pavdit.ops._library import native

ELEMENTS = 2**31
MOST_GB = 16
PERIOD = 353
"""Samples in the block that repeats; a prime number."""
SAMPLED = 64
CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
NAMES = {"q_weight": 1, "k_weight": 2, "shift": 3, "scale": 4, "gate": 5}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(qkv: Tensor) -> tuple[Tensor, ...]:
    return qkv.unbind(-3)


@dataclass(frozen=True)
class Large:
    """One sample of the large tensor, and how an op is called with it."""

    sample: tuple[int, ...]
    others: dict[str, Any] = field(default_factory=dict)
    split: Callable[[Tensor], tuple[Tensor, ...]] = lambda x: (x,)
    """The large tensor as the op's first arguments."""
    per_sample: int = 0
    """Elements that must be more than 2^31 in all; 0: those of a sample."""


def modulation(names: str) -> dict[str, Tensor]:
    return {name: draw(1, 2, 1152, seed=NAMES[name]) for name in names.split()}


NORM = {name: 1 + 0.1 * draw(64, seed=NAMES[name]) for name in ("q_weight", "k_weight")}
CASES = {
    "adaln_modulate": Large((2, 31, 1152), modulation("shift scale")),
    # x is y: four tensors of this size would be 17 GB
    "gated_residual_adaln": Large((2, 31, 1152), modulation("gate shift scale"), lambda x: (x, x)),
    "axis_attention": Large((8, 5, 3, 3, 64), {"axis": 1, "valid": None, **NORM, "rope": angles(8, 64)}),
    "axis_query_attention": Large(
        (17, 3, 2, 4, 48), {"axis": 1, "valid": None}, lambda kv: (kv[:, :1, :, :1], kv)
    ),
    "multiscale_temporal_attention": Large((16, 3, 3, 6, 64)),
    "block_attention": Large(
        (2, 8, 8, 3, 3, 64), {"block": [1, 8, 8], "valid": None, **NORM, "rope": angles(64, 64)}, packed
    ),
    "block_cross_attention": Large((2, 8, 8, 3, 3, 64), {"block": [1, 8, 8]}, lambda x: (x, x)),
    "log_mel_frames": Large(
        (25_600,),
        {
            "window": torch.hann_window(512),
            "filterbank": draw(256, 1025).abs() / 1025,
            "n_fft": 2048,
            "hop_length": 50,
            "columns_per_frame": 32,
            "floor_db": -100.0,
        },
        per_sample=16 * 256 * 32,
    ),
    "qk_norm_rope": Large((8, 5, 3, 3, 64), {**NORM, "rope": angles(5, 64)}),
}


def free_gb(device: str) -> float:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 1e9
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")) / 1e9


def filled(case: Large, device: str) -> Tensor:
    """The large tensor: a block of samples, again and again."""
    count = ELEMENTS // (case.per_sample or prod(case.sample)) + 11
    block = draw(PERIOD, *case.sample).to(torch.bfloat16).to(device)
    x = torch.empty((count, *case.sample), dtype=torch.bfloat16, device=device)
    for start in range(0, count, PERIOD):
        piece = x[start : start + PERIOD]
        piece.copy_(block[: piece.shape[0]])
    return x


def sampled(case: Large, count: int) -> Tensor:
    """Indices of samples: the first, the last, those around element 2^31, and some between."""
    middle = ELEMENTS // prod(case.sample)
    near = [0, 1, count - 2, count - 1, *(middle + i for i in (-2, -1, 0, 1, 2))]
    some = torch.randint(count, (SAMPLED,), generator=torch.Generator().manual_seed(1)).tolist()
    return torch.tensor(sorted({i for i in (*near, *some) if 0 <= i < count}))


def flat(result: Any) -> Iterator[Tensor]:
    yield from [result] if isinstance(result, Tensor) else result


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("name", CASES)
def test_more_than_two_to_the_31_elements(name: str, device: str) -> None:
    case, op = CASES[name], getattr(pavdit.ops, name)
    if not native(name, torch.empty(0, dtype=torch.bfloat16, device=device)):
        pytest.skip(f"no native {name} on {device}")
    if free_gb(device) < MOST_GB:
        pytest.skip(f"want {MOST_GB} GB of free memory, got {free_gb(device):.0f}")
    reference = getattr(sys.modules[op.__module__], f"{name}_reference")
    x = filled(case, device)
    indices = sampled(case, x.shape[0]).to(device)
    others = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in case.others.items()}
    if "shift" in others:
        others["eps"] = 1e-6
    with torch.no_grad():
        results = list(flat(op(*case.split(x), *others.values())))
        got = [r[indices].cpu() for r in results]
        largest = max(t.numel() for t in (x, *results))
        del results
        few = case.split(x[indices].cpu())
        del x
        plain = [v.cpu() if isinstance(v, Tensor) else v for v in others.values()]
        eager = flat(reference(*few, *plain))
        wide = [v.double() if isinstance(v, Tensor) else v for v in (*few, *plain)]
        exact = flat(reference(*wide))
    assert largest > ELEMENTS
    for tensors in zip(got, eager, exact, strict=True):
        assert_no_worse(*tensors)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 < MOST_GB
