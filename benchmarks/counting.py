"""What a call asks of the machine: ops that reach the dispatcher, matrix products and their time alone."""

from __future__ import annotations

from collections import Counter
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROUNDS, WARM_UPS = 10, 2
GEMMS = {torch.ops.aten.addmm.default: 1, torch.ops.aten.mm.default: 0}
"""The ops that linear layers become, and where their first factor stands."""


def now(device: torch.device) -> float:
    """Seconds on the host's clock, with all work of the device done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


class Dispatches(TorchDispatchMode):
    """Counts what reaches the dispatcher and does work: views are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        self.count += not any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        return func(*args, **(kwargs or {}))


class Gemms(TorchDispatchMode):
    """Counts the matrix products of a call by shape: rows, terms, columns."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, int, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = GEMMS.get(func)
        if first is not None:
            (rows, terms), columns = args[first].shape, args[first + 1].shape[1]
            self.shapes[rows, terms, columns] += 1
        return func(*args, **(kwargs or {}))

    def gflop(self) -> float:
        """Of all products."""
        return sum(2e-9 * m * k * n * count for (m, k, n), count in self.shapes.items())

    def seconds(self, dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
        """Time of all products by themselves, and the best GFLOP/s that one of the shapes reached."""
        total, peak = 0.0, 0.0
        for (rows, terms, columns), count in self.shapes.items():
            x = torch.randn(rows, terms, device=device, dtype=dtype)
            weight = torch.randn(columns, terms, device=device, dtype=dtype)
            bias = torch.randn(columns, device=device, dtype=dtype)
            rounds = []
            for _ in range(WARM_UPS + ROUNDS):
                begin = now(device)
                torch.nn.functional.linear(x, weight, bias)
                rounds.append(now(device) - begin)
            one = median(rounds[WARM_UPS:])
            total += count * one
            peak = max(peak, 2e-9 * rows * terms * columns / one)
        return total, peak
