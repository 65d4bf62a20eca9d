"""Register raw ops (``torch.ops.pavdit.*``) and call them; autograd stands outside, in the public ops."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Fake = TypeVar("Fake", bound=Callable[..., Any])
BACKWARD = "_backward"
"""Ends the name of the raw op that computes another op's gradient."""


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

    Only without grad mode, which an autograd.Function turns off; with it autograd is asked, and refuses what
    needs a gradient. Not for an op that writes its input: autograd counts the writes. A CPU kernel on plain
    tensors is called without the other stations of the dispatcher, which take longer than a small kernel.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return op(*arguments)
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    if all([torch._C._dispatch_keys(t).raw_repr() in _PLAIN for t in tensors]) and _unwatched():
        return op._handle.redispatch_boxed(_CPU, *arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)
