"""Say which implementation serves an op.

C++ and CUDA kernels register themselves when their library is loaded; a Triton kernel is registered by its
op's file, through `serve_by_triton`, a kernel of torch's through `serve_by_torch`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from pavdit.ops._loading import DEVICES, MISSING, TRITON_MISSING, USE_REFERENCE
from pavdit.ops._raw import BACKWARD

NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class OpStatus:
    """What serves one op on one kind of device, for ``pavdit doctor``."""

    op: str
    device: str
    implementation: str
    reason: str


def _kernels(device: str) -> frozenset[str]:
    """Return the ops of this package that have a kernel of their own for `device`."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key(device.upper())
    return frozenset(name.removeprefix("pavdit::") for name in names if name.startswith("pavdit::"))


_native = {device: frozenset() if MISSING[device] else _kernels(device) for device in DEVICES}
_triton_ops: frozenset[str] = frozenset()
_from_torch: dict[tuple[str, str], str] = {}


def serve_by_triton(op: str, call: Callable[..., object]) -> None:
    """Let a Triton kernel serve the raw op `op` wherever Triton runs; call once, after its schema.

    Args:
        op: name of the raw op.
        call: its implementation; imports ``pavdit.kernels.<op>`` when called, not before.
    """
    global _triton_ops
    _triton_ops |= {op}
    for device in DEVICES:
        if not TRITON_MISSING[device]:
            torch.library.impl(f"pavdit::{op}", device.upper(), call)
            _native[device] |= {op}


def serve_by_torch(op: str, device: str, call: Callable[..., object], kernel: str) -> None:
    """Let a fused kernel that comes with torch serve the raw op `op`; call once a device, after its schema.

    Args:
        op: name of the raw op.
        device: ``cpu`` or ``cuda``.
        call: its implementation.
        kernel: whose it is, for ``pavdit doctor``.
    """
    if USE_REFERENCE:
        return
    torch.library.impl(f"pavdit::{op}", device.upper(), call)
    _native[device] |= {op}
    _from_torch[op, device] = kernel


def native(op: str, *tensors: Tensor) -> bool:
    """Say whether a native kernel serves `op` for these tensors.

    Args:
        op: name of the raw op.
        tensors: its floating-point inputs, which are on one device.
    """
    first = tensors[0]
    ops = _native["cpu"] if first.is_cpu else _native["cuda"] if first.is_cuda else ()
    return op in ops and not [t for t in tensors if t.dtype not in NATIVE_DTYPES]


def build_facts() -> ModuleType | None:
    """Return ``pavdit._C`` (compiler, CUDA, architectures, `cpu_capability`), or None if it was not built."""
    try:
        return importlib.import_module("pavdit._C")
    except ImportError:
        return None


def _status(op: str, device: str) -> OpStatus:
    by_triton = op in _triton_ops
    if op not in _native[device]:
        why = TRITON_MISSING[device] if by_triton else MISSING[device]
        return OpStatus(op, device, "reference", why or "no native kernel for this op")
    if by_triton:
        interpreted = ", interpreted" if os.environ.get("TRITON_INTERPRET") == "1" else ""
        return OpStatus(op, device, "native", f"triton {sys.modules['triton'].__version__}{interpreted}")
    if (op, device) in _from_torch:
        return OpStatus(op, device, "native", _from_torch[op, device])
    facts = build_facts()
    detail = "" if facts is None else facts.cpu_capability() if device == "cpu" else facts.cuda_archs
    return OpStatus(op, device, "native", detail or "library loaded")


def report() -> list[OpStatus]:
    """List the ops that are defined so far (all of them once `pavdit.ops` is imported), on every device."""
    names = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    ops = sorted(name.removeprefix("pavdit::") for name in names if name.startswith("pavdit::"))
    return [_status(op, device) for op in ops if not op.endswith(BACKWARD) for device in DEVICES]
