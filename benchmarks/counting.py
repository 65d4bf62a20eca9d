"""What a call asks of the machine: ops that reach the dispatcher, kernels that reach the device."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


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


def kernels(call: Callable[[], object]) -> int:
    """Kernels that a call runs on the device, those of a replayed graph included; copies do not count."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    on_device = (e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA)
    return sum(not e.name.startswith(("Memcpy", "Memset")) for e in on_device)


def forward_flops(call: Callable[[], object]) -> float:
    """Of a call's products and attentions in plain PyTorch."""

    def on_cpu(q: torch.Size, k: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    unknown = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: on_cpu}
    with FlopCounterMode(display=False, custom_mapping=unknown) as flops:
        call()
    return float(flops.get_total_flops())
