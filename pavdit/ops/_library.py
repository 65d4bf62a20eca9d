"""Load the native libraries and say which implementation serves an op.

C++ and CUDA kernels register themselves when their library is loaded; a Triton kernel is registered by its
op's file, through `serve_by_triton`.

Environment, read once at import:

- ``PAVDIT_KERNELS=auto|reference``: ``reference`` loads no library, so every op runs in plain PyTorch.
- ``PAVDIT_REQUIRE_KERNELS=cpu|cuda`` (or both, with a comma): a library that cannot be used is an error, not
  a fallback. For tests, where a silent fallback would pass.
- ``TRITON_INTERPRET=1`` (Triton's own): Triton kernels run on the CPU, slowly. For tests.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda")
Fake = TypeVar("Fake", bound=Callable[..., Any])
BACKWARD = "_backward"
"""Ends the name of the raw op that computes another op's gradient."""


@dataclass(frozen=True, slots=True)
class OpStatus:
    """What serves one op on one kind of device, for ``pavdit doctor``."""

    op: str
    device: str
    implementation: str
    reason: str


def _words(variable: str, allowed: tuple[str, ...], default: str) -> frozenset[str]:
    words = frozenset(os.environ.get(variable, default).replace(",", " ").split())
    if unknown := words - set(allowed):
        raise ValueError(f"{variable}: want {' or '.join(allowed)}, got {' '.join(sorted(unknown))}")
    return words


def _load(device: str) -> str:
    """Load the library for `device`; return why it is not there, or an empty string."""
    path = Path(__file__).parents[1] / f"_ops_{device}.so"
    if _use_reference:
        return "PAVDIT_KERNELS=reference"
    if device == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not path.is_file():
        without = "nvcc" if device == "cuda" else "a C++ compiler"
        return f"{path.name} is missing: pavdit was installed without {without}"
    try:
        torch.ops.load_library(str(path))
    except OSError as fault:
        return f"{path.name} does not load: {fault.__cause__ or fault}"
    return ""


def _load_triton(device: str) -> str:
    """Import Triton where its kernels can run on `device`; return why they cannot, or an empty string."""
    if _use_reference:
        return "PAVDIT_KERNELS=reference"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "its kernel is written in Triton, for CUDA"
    if device == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        importlib.import_module("triton")
        _find_triton_kernels()
    except ImportError as fault:
        return f"Triton kernels do not import: {fault}"
    return ""


def _find_triton_kernels() -> None:
    """Import ``pavdit.kernels``; in a source tree that is not installed it lies beside the package."""
    if importlib.util.find_spec("pavdit.kernels") is None:
        path = Path(__file__).parents[2] / "kernels" / "__init__.py"
        spec = importlib.util.spec_from_file_location("pavdit.kernels", path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ImportError(f"no pavdit.kernels, and {path} is missing")
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])


def _kernels(device: str) -> frozenset[str]:
    """Return the ops of this package that have a kernel of their own for `device`."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key(device.upper())
    return frozenset(name.removeprefix("pavdit::") for name in names if name.startswith("pavdit::"))


def _check_required() -> None:
    for device in sorted(_required):
        why_not = _missing[device] or (_triton_missing[device] if device == "cuda" else "")
        if not why_not and device == "cuda" and not torch.cuda.is_available():
            why_not = "torch finds no CUDA device"
        if why_not:
            raise RuntimeError(
                f"PAVDIT_REQUIRE_KERNELS={device}: want the native library, got none: {why_not}"
            )


_use_reference = "reference" in _words("PAVDIT_KERNELS", ("auto", "reference"), "auto")
_required = _words("PAVDIT_REQUIRE_KERNELS", DEVICES, "")
_missing = {device: _load(device) for device in DEVICES}
_native = {device: frozenset() if _missing[device] else _kernels(device) for device in DEVICES}
_triton_missing = {device: _load_triton(device) for device in DEVICES}
_triton_ops: frozenset[str] = frozenset()
_from_torch: dict[tuple[str, str], str] = {}
_check_required()


def serve_by_triton(op: str, call: Callable[..., object]) -> None:
    """Let a Triton kernel serve the raw op `op` wherever Triton runs; call once, after its schema.

    Args:
        op: name of the raw op.
        call: its implementation; imports ``pavdit.kernels.<op>`` when called, not before.
    """
    global _triton_ops
    _triton_ops |= {op}
    for device in DEVICES:
        if not _triton_missing[device]:
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
    if _use_reference:
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


def _key_sets() -> frozenset[int]:
    """Dispatch keys of a CPU tensor that is nothing else besides: not batched, negated lazily, fake …"""
    plain = torch.empty(0)
    with torch.inference_mode():
        inferred = torch.empty(0)
    return frozenset(torch._C._dispatch_keys(t).raw_repr() for t in (plain, inferred))


_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_PLAIN = _key_sets()


def _unwatched() -> bool:
    """Whether neither a mode nor the profiler wants to see the ops that are called."""
    return not torch._C._len_torch_dispatch_stack() and not torch._C._autograd._profiler_enabled()


def call(op: Any, *arguments: object) -> Any:
    """Call a raw op past autograd, where all that waits is `forbid_gradients`, 4 us away in Python.

    Only where no gradient is recorded: without grad mode, or in an autograd.Function. A CPU kernel on plain
    tensors is called without the other stations of the dispatcher, which take longer than a small kernel.
    """
    if torch.compiler.is_compiling():
        return op(*arguments)
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    if all([torch._C._dispatch_keys(t).raw_repr() in _PLAIN for t in tensors]) and _unwatched():
        return op._handle.redispatch_boxed(_CPU, *arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def forbid_gradients(op: str) -> None:
    """Make a raw op with native kernels raise where an input needs a gradient; call once, after its schema.

    Autograd stands outside the raw ops, so to go on would cut the graph without a word.
    """

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(
            f"torch.ops.pavdit.{op}: want inputs that need no gradient, got one that does; "
            f"call pavdit.ops.{op.removesuffix(BACKWARD)} instead"
        )

    torch.library.register_autograd(f"pavdit::{op}", refuse, setup_context=refuse)


def register_fake(op: str) -> Callable[[Fake], Fake]:
    """`torch.library.register_fake` for an op, with a check of the devices before.

    A call with a meta tensor among others runs the fake, whose result would be memory that nobody wrote.
    """

    def decorate(fake: Fake) -> Fake:
        @functools.wraps(fake)
        def checked(*arguments: Any, **named: Any) -> Any:
            given = (*arguments, *named.values())
            devices = {str(t.device) for t in given if isinstance(t, Tensor)}
            if len(devices) > 1:
                raise RuntimeError(
                    f"torch.ops.{op}: want all tensors on one device, got {' and '.join(sorted(devices))}"
                )
            return fake(*arguments, **named)

        torch.library.register_fake(op, checked)
        return fake

    return decorate


def build_facts() -> ModuleType | None:
    """Return ``pavdit._C`` (compiler, CUDA, architectures, `cpu_capability`), or None if it was not built."""
    try:
        return importlib.import_module("pavdit._C")
    except ImportError:
        return None


def _status(op: str, device: str) -> OpStatus:
    by_triton = op in _triton_ops
    if op not in _native[device]:
        why = _triton_missing[device] if by_triton else _missing[device]
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
