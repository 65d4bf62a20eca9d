"""Attention inside a frame, by the kernel that is fastest for its shape on its machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pavdit.nn.flash import find_flash, flash_attention
from pavdit.ops import block_attention
from pavdit.ops._attend import attend
from pavdit.ops.qk_norm_rope import norm_and_rotate

Backend = Literal["block", "sdpa", "flash"]
"""`block_attention` (our kernel, beyond its sizes PyTorch's), PyTorch's attention, or flash-attn."""

BACKENDS: tuple[Backend, ...] = ("block", "sdpa", "flash")
MEASURED = "measured.json"
"""In the package: which backend was fastest, by machine, dtype, tokens and head width; a row a measurement
of `benchmarks/attention.py`. Nothing is tried out at run time."""


class FrameAttention(nn.Module):
    """Every frame attends inside itself: N tokens a problem. No weights of its own.

    Attributes:
        backend: what serves; flash-attn knows no padding, so a call with `valid` goes to PyTorch's instead.
    """

    backend: Backend = "block"

    def forward(
        self,
        qkv: Tensor,
        valid: Tensor | None = None,
        q_weight: Tensor | None = None,
        k_weight: Tensor | None = None,
        rope: Tensor | None = None,
    ) -> Tensor:
        """``(B, T, N, 3, A, E)`` to ``(B, T, N, A, E)``.

        Args:
            qkv: projections, packed.
            valid: bool, broadcastable to ``(B, T, N)``: False hides a token as a key.
            q_weight: ``(E,)``, RMS norm of the queries, or None.
            k_weight: ``(E,)``, of the keys; both or neither.
            rope: float32 ``(2, N, E/2)`` or None.
        """
        q, k, v = qkv.unbind(3)  # (B, T, N, A, E) each, views
        if self.backend == "block":
            q, k, v = (x.unsqueeze(2) for x in (q, k, v))  # a frame is a block of one row
            valid = None if valid is None else valid.unsqueeze(2)
            block = 1, 1, q.shape[3]
            return block_attention(q, k, v, block, valid, q_weight, k_weight, rope).squeeze(2)
        shape = q.shape
        q, k = norm_and_rotate(q, q_weight, rope), norm_and_rotate(k, k_weight, rope)
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # (B * T, N, A, E)
        if self.backend == "flash" and valid is None:
            return flash_attention(q, k, v.contiguous()).view(shape)
        keys = None if valid is None else valid.expand(shape[:3]).flatten(0, 1)  # (B * T, N)
        return attend(q, k, v, keys).reshape(shape)


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A backend and why it serves."""

    backend: Backend
    why: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.why}"


def choose_backend(
    asked: str, device: torch.device, dtype: torch.dtype, num_tokens: int, head_dim: int
) -> BackendChoice:
    """What was asked for, or with ``auto`` what was measured to be fastest on such a machine.

    Raises:
        ValueError: there is no such backend, or it does not serve this device and dtype.
    """
    if asked not in ("auto", *BACKENDS):
        raise ValueError(f"attention: want auto, {', '.join(BACKENDS)}, got {asked!r}")
    if asked == "flash" and (missing := _without_flash(device, dtype)):
        raise ValueError(f"attention: want flash-attn to serve, got {missing}")
    for backend in BACKENDS:
        if backend == asked:
            return BackendChoice(backend, "as asked")
    if device.type != "cuda":
        return BackendChoice("block", "the default")
    machine, dtype_name = torch.cuda.get_device_name(device), str(dtype).removeprefix("torch.")
    want = {"machine": machine, "dtype": dtype_name, "num_tokens": num_tokens, "head_dim": head_dim}
    for row in measured():
        if want.items() <= row.items():
            missing = _without_flash(device, dtype) if row["fastest"] == "flash" else ""
            if not missing:
                return BackendChoice(row["fastest"], f"measured fastest at {num_tokens} tokens")
            second = min((b for b in BACKENDS if b != "flash"), key=lambda b: row["ms"][b])
            return BackendChoice(second, f"flash measured fastest at {num_tokens} tokens, but {missing}")
    return BackendChoice("block", f"the default; {num_tokens} tokens are not measured on {machine}")


def set_backend(model: nn.Module, backend: Backend) -> None:
    """Let one backend serve every frame attention of a model."""
    for module in model.modules():
        if isinstance(module, FrameAttention):
            module.backend = backend


def measured() -> list[dict[str, Any]]:
    """The rows of the shipped table: machine, dtype, num_tokens, head_dim, fastest, ms by backend."""
    rows: list[dict[str, Any]] = json.loads((files("pavdit") / MEASURED).read_text())["attention"]
    return rows


def _without_flash(device: torch.device, dtype: torch.dtype) -> str:
    """Why flash-attn does not serve; empty where it does."""
    if device.type != "cuda":
        return f"{device}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"{dtype}"
    return "" if find_flash() else "none that imports"
