"""Argument checks that several ops share. Every message reads `op: want X, got Y`."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What the ops work in. Float64 is served by the references only: the tests take it as exact."""


def check_tensor(op: str, name: str, value: object) -> None:
    """`value` is a tensor whose elements lie in memory by strides.

    Raises:
        TypeError: no tensor, or a sparse, nested or otherwise packed one.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: want {name} a tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested:
        raise TypeError(
            f"{op}: want {name} a dense tensor, got {'a nested one' if value.is_nested else value.layout}"
        )


def check_number(op: str, name: str, value: object, kind: type = float) -> None:
    """`value` is a Python number (or one that `torch.compile` stands in for): an int, or also a float.

    Raises:
        TypeError: something else; a bool or a tensor, too.
    """
    good = (int, torch.SymInt) if kind is int else (float, int, torch.SymFloat, torch.SymInt)
    if not isinstance(value, good) or isinstance(value, bool):
        wanted = "an int" if kind is int else "a number"
        raise TypeError(f"{op}: want {name} {wanted}, got {type(value).__name__}")


def check_writable(op: str, name: str, tensor: Tensor) -> None:
    """`tensor` may be written in place: no two elements share memory, none is negated lazily, and no gradient
    starts at it.

    Raises:
        ValueError: it may not.
    """
    strides = [] if tensor.is_contiguous() else zip(tensor.stride(), tensor.shape, strict=True)
    room = 1  # what lies between two elements of the next axis
    for stride, size in sorted(strides):
        if size > 1 and stride < room:
            raise ValueError(
                f"{op}: want {name} without elements that share memory, got {tuple(tensor.shape)} "
                f"with strides {tensor.stride()}"
            )
        room = max(room, stride * size)
    if not torch.compiler.is_compiling() and tensor.is_neg():
        raise ValueError(f"{op}: want {name} as it lies in memory, got a view that is negated when read")
    if torch.is_grad_enabled() and tensor.requires_grad and tensor.is_leaf:
        raise ValueError(
            f"{op}: want {name} that needs no gradient, for it is overwritten, got one that does"
        )


def check_floating(op: str, **tensors: Tensor) -> None:
    """All are floating-point tensors of one dtype on one device.

    Raises:
        TypeError: one is no tensor, has no supported dtype, or another dtype than the first.
        ValueError: one lives on another device than the first.
    """
    first_name, first = "", None
    for name, tensor in tensors.items():
        check_tensor(op, name, tensor)
        if tensor.dtype not in FLOATING:
            raise TypeError(f"{op}: want {name} float32, bfloat16, float16 or float64, got {tensor.dtype}")
        if first is None:
            first_name, first = name, tensor
            continue
        if tensor.dtype != first.dtype:
            raise TypeError(f"{op}: want {name} {first.dtype} as {first_name}, got {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(f"{op}: want {name} on {first.device} as {first_name}, got {tensor.device}")


def check_for_autocast(op: str, x: Tensor, **weights: Tensor) -> bool:
    """`check_floating` of all; under autocast, which casts, of `x` and of the weights among themselves.

    Returns:
        Whether autocast is on for the device of `x`.

    Raises:
        TypeError, ValueError: as `check_floating`.
    """
    device = x.device.type if isinstance(x, Tensor) else "cpu"
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    if autocast:
        check_floating(op, x=x)
        check_floating(op, **weights)
    else:
        check_floating(op, x=x, **weights)
    return autocast


def check_beside(op: str, name: str, tensor: Tensor, like: Tensor) -> None:
    """`tensor` is a parameter beside `like`: on its device, in its dtype or float32.

    Raises:
        TypeError: no tensor, or another dtype.
        ValueError: another device.
    """
    check_tensor(op, name, tensor)
    if tensor.dtype not in (like.dtype, torch.float32):
        wanted = "float32" if like.dtype == torch.float32 else f"{like.dtype} or float32"
        raise TypeError(f"{op}: want {name} {wanted}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{op}: want {name} on {like.device}, got {tensor.device}")


def check_valid(op: str, valid: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
    """`valid` is None or a bool mask that broadcasts to `shape`.

    Raises:
        TypeError: another type or dtype.
        ValueError: it does not broadcast, or another device.
    """
    if valid is None:
        return
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        got = valid.dtype if isinstance(valid, Tensor) else type(valid).__name__
        raise TypeError(f"{op}: want valid a bool tensor or None, got {got}")
    check_tensor(op, "valid", valid)
    if valid.device != device:
        raise ValueError(f"{op}: want valid on {device}, got {valid.device}")
    tail = shape[len(shape) - valid.ndim :]
    if valid.ndim > len(shape) or any(n not in (1, m) for n, m in zip(valid.shape, tail, strict=True)):
        raise ValueError(f"{op}: want valid broadcastable to {tuple(shape)}, got {tuple(valid.shape)}")


def check_norm_and_rope(
    op: str, like: Tensor, length: int, q_weight: Tensor | None, k_weight: Tensor | None, rope: Tensor | None
) -> None:
    """QK-norm weights are both None or both (E,), `rope` is None or float32 (2, length, E/2) with E even.

    Raises:
        TypeError: another dtype; tables of angles are float32 whatever `like` is, since bfloat16 blurs
            positions.
        ValueError: another shape or device, only one weight, or an odd E.
    """
    width = like.shape[-1]
    if (q_weight is None) != (k_weight is None):
        given = "q_weight" if k_weight is None else "k_weight"
        raise ValueError(f"{op}: want both of q_weight and k_weight or neither, got only {given}")
    if q_weight is not None and k_weight is not None:
        for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
            check_beside(op, name, weight, like)
            if weight.shape != (width,):
                raise ValueError(f"{op}: want {name} ({width},), got {tuple(weight.shape)}")
    if rope is None:
        return
    if not isinstance(rope, Tensor):
        raise TypeError(f"{op}: want rope a tensor or None, got {type(rope).__name__}")
    check_tensor(op, "rope", rope)
    if rope.dtype != torch.float32 and not rope.dtype == like.dtype == torch.float64:
        raise TypeError(f"{op}: want rope float32, got {rope.dtype}")
    if rope.device != like.device:
        raise ValueError(f"{op}: want rope on {like.device}, got {rope.device}")
    if width % 2:
        raise ValueError(f"{op}: want an even head width E for rope, got {width}")
    if rope.shape != (2, length, width // 2):
        raise ValueError(f"{op}: want rope (2, {length}, {width // 2}), got {tuple(rope.shape)}")


def refuse_gradients(op: str, *tensors: Tensor | None) -> None:
    """For raw ops to which `_raw.forbid_gradients` cannot attach (an op that writes its input).

    Raises:
        RuntimeError: gradients are recorded and an input needs one.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise RuntimeError(
            f"torch.ops.pavdit.{op}: want inputs that need no gradient, got one that does; "
            f"call pavdit.ops.{op} instead"
        )


def check_no_gradient(op: str, **tensors: Tensor | None) -> None:
    """For ops that serve inference only.

    Raises:
        ValueError: gradients are recorded and an input needs one.
    """
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise ValueError(f"{op}: want {name} that needs no gradient, got one that does")
