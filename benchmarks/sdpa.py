"""PyTorch's attention as a peer: once per backend that runs, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch

Attend = Callable[..., object]
SDPA: dict[str, Callable[[bool], None]] = {
    "flash": torch.backends.cuda.enable_flash_sdp,  # these switches hold on a CPU, too
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
    "math": torch.backends.cuda.enable_math_sdp,
}
"""The backends of PyTorch's attention, and how to switch each."""


def sdpa_backends(attend: Attend, *probe: torch.Tensor) -> dict[str, Attend]:
    """Return `attend`, which calls PyTorch's attention, once per backend that runs it for these tensors."""
    found = {}
    for name in SDPA:
        way = _with_backend(attend, name)
        try:
            way(*probe)
        except RuntimeError:  # no kernel of this backend for the device, dtype or shape
            continue
        found[f"sdpa {name}"] = way
    return found


def _with_backend(attend: Attend, name: str) -> Attend:
    def call(*tensors: torch.Tensor) -> object:
        # by hand: the context manager of torch.nn.attention takes longer than a short attention
        for other, enable in SDPA.items():
            enable(other == name)
        try:
            return attend(*tensors)
        finally:
            for enable in SDPA.values():
                enable(True)

    return call
