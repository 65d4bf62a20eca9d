"""The least that a call needs: its matrix products and its attentions, each alone and at its best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.counting import now
from benchmarks.harness import measure
from benchmarks.sdpa import sdpa_backends

ROUNDS, WARM_UPS = 10, 2
GEMMS = {torch.ops.aten.addmm.default: 1, torch.ops.aten.mm.default: 0}
"""The ops that linear layers become, and where their first factor stands."""
BLAS = ("cublas", "cublaslt")


@dataclass
class Work:
    """What a call multiplies and attends to.

    Attributes:
        gemms: how often each product of ``(rows, terms) x (terms, columns)`` occurs.
        attentions: how often each attention of queries and keys of these shapes occurs.
    """

    gemms: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    attentions: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=Counter)

    def gemm_gflop(self) -> float:
        """Of all products."""
        return sum(2e-9 * m * k * n * count for (m, k, n), count in self.gemms.items())

    def seconds(self, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
        """Time of all products and of all attentions by themselves, and the best GFLOP/s of a product."""
        products = {shape: gemm_seconds(*shape, dtype, device) for shape in self.gemms}
        attentions = {pair: attention_seconds(*pair, dtype, device) for pair in self.attentions}
        return {
            "gemm_seconds": sum(products[shape] * count for shape, count in self.gemms.items()),
            "attention_seconds": sum(attentions[pair] * count for pair, count in self.attentions.items()),
            "peak_gflop_per_s": max(2e-9 * m * k * n / s for (m, k, n), s in products.items()),
        }


class Watch(TorchDispatchMode):
    """Records the work of a call in plain PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = GEMMS.get(func)
        if first is not None:
            (rows, terms), columns = args[first].shape, args[first + 1].shape[1]
            self.work.gemms[rows, terms, columns] += 1
        elif func._schema.name.startswith("aten::_scaled_dot_product"):
            self.work.attentions[tuple(args[0].shape), tuple(args[1].shape)] += 1
        return func(*args, **(kwargs or {}))


def linear_ways(
    rows: int, terms: int, columns: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """A linear layer by each library that has it."""
    x, weight, bias = (
        torch.randn(shape, device=device).to(dtype) for shape in ((rows, terms), (columns, terms), (columns,))
    )

    def product() -> Tensor:
        return functional.linear(x, weight, bias)

    return {name: _by(name, product) for name in BLAS} if device.type == "cuda" else {"linear": product}


def gemm_seconds(rows: int, terms: int, columns: int, dtype: torch.dtype, device: torch.device) -> float:
    """A linear layer by itself, by the best library."""
    return best(linear_ways(rows, terms, columns, dtype, device), device)


def attention_seconds(
    queries: tuple[int, ...], keys: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> float:
    """Attention of ``(P, A, Q, E)`` queries over ``(P, A, N, E)`` keys, by the best of PyTorch's backends."""
    q, k, v = (torch.randn(shape, device=device).to(dtype) for shape in (queries, keys, keys))
    ways = sdpa_backends(functional.scaled_dot_product_attention, q, k, v)
    return best({name: _with(way, q, k, v) for name, way in ways.items()}, device)


def best(ways: Mapping[str, Callable[[], object]], device: torch.device) -> float:
    """Median seconds of the fastest way."""
    if device.type == "cuda":
        return min(times.median_ms for times in measure(dict(ways), "cuda").values()) / 1e3
    found = []
    for way in ways.values():
        rounds = []
        for _ in range(WARM_UPS + ROUNDS):
            begin = now(device)
            way()
            rounds.append(now(device) - begin)
        found.append(median(rounds[WARM_UPS:]))
    return min(found)


def _with(way: Callable[..., object], *tensors: Tensor) -> Callable[[], object]:
    return lambda: way(*tensors)


def _by(library: str, product: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The product by one of CUDA's two libraries."""

    def call() -> Tensor:
        before = torch.backends.cuda.preferred_blas_library()
        torch.backends.cuda.preferred_blas_library(library)
        try:
            return product()
        finally:
            torch.backends.cuda.preferred_blas_library(before)

    return call
