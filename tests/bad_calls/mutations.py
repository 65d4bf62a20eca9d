"""One argument of a right call made wrong, or right in an unusual way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = (
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.complex64,
    torch.int64, torch.uint8, torch.bool,
)  # fmt: skip
HUGE = (2**31, 2**63 - 1, 2**63, -(2**63))
NO_TENSOR = {
    "a float": 1.0,
    "text": "x",
    "a list": [[1.0, 2.0], [3.0, 4.0]],
    "an array": np.ones((2, 4), np.float32),
    "an object": object(),
}


@dataclass(frozen=True)
class Mutation:
    """How to make the argument from a copy of the right one; `wrong` where no result can be right."""

    label: str
    make: Callable[[Any], Any]
    wrong: bool = False
    values: bool = False
    """Other numbers in the same shape."""
    absurd: bool = False
    """Sizes that no memory holds; plain PyTorch, without our checks before it, may work on them for hours."""


def of(value: Any, optional: bool) -> Iterator[Mutation]:
    """Every mutation of a value, of its type."""
    if isinstance(value, Tensor):
        yield Mutation("None", lambda _: None, wrong=not optional)
        yield from of_tensor(value)
    elif isinstance(value, bool):
        yield from (_constant(v) for v in (not value, 0, 1))
        yield from (_constant(v, wrong=True) for v in (None, "no", [True]))
    elif isinstance(value, int):
        numbers = (-1, 0, 1, 2, 3, value + 1, 2 * value, 101, np.int64(value))
        yield from (_constant(v) for v in numbers)
        yield from (_constant(v, absurd=True) for v in HUGE)
        yield Mutation("a tensor", torch.tensor)
        yield from (_constant(v, wrong=True) for v in (None, "1", [1], 1.5, object()))
    elif isinstance(value, float):
        yield from (_constant(v) for v in (0.0, -4.0, 1e-300, 1e300, torch.inf, -torch.inf, torch.nan, 1))
        yield from (_constant(v, wrong=True) for v in (None, "1", [1.0], 1j, object()))
        yield Mutation("a tensor", torch.tensor)
    elif value is not None:  # None: the argument is there in another call of the op
        yield from of_ints(list(value))


def _constant(value: Any, **facts: bool) -> Mutation:
    return Mutation(
        f"= {type(value).__name__}" if type(value) is object else f"= {value!r}", lambda _: value, **facts
    )


def of_ints(value: list[int]) -> Iterator[Mutation]:
    yield from (_constant((value * 2)[:n]) for n in range(len(value)))
    yield from (_constant(v) for v in ([*value, 1], tuple(value), 1, ()))
    yield Mutation("a tensor", torch.tensor)
    yield from (_constant(v, wrong=True) for v in (None, "111", 1.5, [[1, 2, 2]], {1: 2}))
    for i in range(len(value)):
        for new in (-1, 0, 2, 3, 8, *HUGE, None, 1.5, "1"):
            wrong = not isinstance(new, int)
            yield _constant([*value[:i], new, *value[i + 1 :]], wrong=wrong, absurd=new in HUGE)


def of_tensor(t: Tensor) -> Iterator[Mutation]:
    for label, value in NO_TENSOR.items():
        wrong = not (t.ndim == 0 and isinstance(value, float))  # a number may stand for a tensor without axes
        yield Mutation(label, lambda _, value=value: value, wrong=wrong)
    yield Mutation("on meta", lambda t: t.to("meta"))
    yield from _dtypes(t)
    yield from _shapes(t)
    yield from _layouts(t)
    yield from _overlaps(t)
    yield from _strangers(t)


def _dtypes(t: Tensor) -> Iterator[Mutation]:
    kind = (t.is_floating_point(), t.is_complex())
    for dtype in DTYPES:
        if dtype != t.dtype:
            wrong = (dtype.is_floating_point, dtype.is_complex) != kind or dtype == torch.float8_e4m3fn
            yield Mutation(f"in {dtype}", lambda t, dtype=dtype: t.to(dtype), wrong=wrong)
    if t.is_floating_point() and t.ndim:
        yield Mutation("quantized", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), wrong=True)


def _shapes(t: Tensor) -> Iterator[Mutation]:
    yield Mutation("with one axis more in front", lambda t: t.unsqueeze(0))
    yield Mutation("with one axis more behind", lambda t: t.unsqueeze(-1))
    yield Mutation("flat", lambda t: t.flatten())
    yield Mutation("a number", lambda t: t.flatten()[0])
    yield Mutation("with no element", lambda t: t.new_zeros(0))
    yield Mutation("with 64 axes", lambda t: t.new_ones((1,) * 64))
    for i in range(t.ndim):
        size = t.shape[i]
        yield Mutation(f"without axis {i}", lambda t, i=i: t.select(i, 0))
        for n in sorted({0, 1, size + 1, 2 * size} - {size}):
            yield Mutation(
                f"with {n} on axis {i}", lambda t, i=i, n=n: t.index_select(i, torch.arange(n) % t.shape[i])
            )
        if i + 1 < t.ndim and size != t.shape[i + 1]:
            yield Mutation(f"with axes {i} and {i + 1} swapped", lambda t, i=i: t.transpose(i, i + 1))
    yield Mutation("2**31 times", lambda t: t.unsqueeze(0).expand(2**31, *t.shape), absurd=True)
    yield Mutation("0 times 2**31", lambda t: t.new_zeros((0, *t.shape[1:-1], 2**31)), absurd=True)


def _layouts(t: Tensor) -> Iterator[Mutation]:
    """The same numbers in other places."""
    yield Mutation("unaligned", lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view_as(t))
    if t.is_floating_point():
        yield Mutation("that needs a gradient", lambda t: t.requires_grad_())
        yield Mutation("negated when read", lambda t: torch._neg_view(-t))
    for i in range(t.ndim):
        yield Mutation(
            f"in steps on axis {i}",
            lambda t, i=i: torch.stack([t, 1 - t.float()], i + 1).to(t.dtype).select(i + 1, 0),
        )
    for i in range(t.ndim - 1):
        yield Mutation(
            f"with axis {i} innermost", lambda t, i=i: t.movedim(i, -1).contiguous().movedim(-1, i)
        )
    if 1 in t.shape:
        yield Mutation("with a wild stride where the size is 1", _wild)


def _wild(t: Tensor) -> Tensor:
    return t.as_strided(t.shape, [2**40 if n == 1 else s for n, s in zip(t.shape, t.stride(), strict=True)])


def _overlaps(t: Tensor) -> Iterator[Mutation]:
    """Elements that share their memory."""
    for i in range(t.ndim):
        yield Mutation(
            f"expanded on axis {i}",
            lambda t, i=i: t.narrow(i, 0, 1).expand_as(t),
            values=True,
        )
    yield Mutation("of windows that slide by 1", lambda t: t.as_strided(t.shape, (1,) * t.ndim), values=True)
    yield Mutation("of zeros", torch.zeros_like, values=True)


def _strangers(t: Tensor) -> Iterator[Mutation]:
    """Tensors that are not rows of memory, and one that only looks strange."""
    yield Mutation("as a subclass", lambda t: t.as_subclass(Subclass))
    yield Mutation("sparse", lambda t: t.to_sparse(), wrong=t.ndim > 0)
    if t.dtype == torch.float32 and t.ndim:
        yield Mutation("packed for mkldnn", lambda t: t.to_mkldnn(), wrong=True)
        yield Mutation("nested", lambda t: torch.nested.nested_tensor(list(t.unbind(0))), wrong=True)


class Subclass(Tensor):
    """A tensor by another name."""
