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


def call(op: Callable[..., Any], *arguments: object) -> Any:
    """Call a raw op past autograd, where all that waits is `forbid_gradients`, 4 us away in Python.

    Only without grad mode, which an autograd.Function turns off; with it autograd is asked, and refuses what
    needs a gradient. Not for an op that writes its input: autograd counts the writes.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)
