"""Say whether a call gave a right result or a Python exception that helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numerics import assert_not_wrong
from torch import Tensor

from bad_calls.mutations import Mutation, of
from bad_calls.targets import FLOATING, Target, draw, flat, leaves_of

WIDER = {torch.complex64: torch.complex128}
COMPARED = (*FLOATING, *WIDER, *WIDER.values())
"""Others come from plain PyTorch alone."""
RIGHT = "as it is"
SMALL = 10**6
"""Elements; what is larger only shares its memory and is not copied."""
Outcome = list[Tensor] | Exception


@dataclass(frozen=True)
class BadCall:
    """One call, and the argument of it that is unusual."""

    target: Target
    argument: str
    mutation: Mutation

    @property
    def label(self) -> str:
        return f"{self.target.name}: {self.argument} {self.mutation.label}"

    def run(self) -> str:
        """Return `right` or `raised`, else what is wrong."""
        try:
            arguments = self._arguments()
        except Exception:
            return "raised before the call, by torch"
        wrong = self._is_wrong(arguments)
        got = _outcome(self.target.call, arguments)
        if isinstance(got, Exception):
            return self._judge_exception(got)
        if wrong:
            return "WRONG: want an exception, got a result"
        verdict = self._compare(got, _outcome)
        if verdict == "right" and self.target.differentiable:
            return self._compare(_gradients(self.target.call, self._arguments()), _gradients)
        return verdict

    def _arguments(self) -> dict[str, Any]:
        """Fresh ones: a call may write into them."""
        copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in self.target.arguments.items()}
        return copies | {self.argument: self.mutation.make(copies[self.argument])}

    def _for_reference(self, double: bool) -> dict[str, Any]:
        arguments = self._arguments()
        if self.target.raw and isinstance(self.target.arguments[self.argument], bool):
            arguments[self.argument] = bool(arguments[self.argument])  # as an op's schema makes it one
        return {k: _double(v) for k, v in arguments.items()} if double else arguments

    def _is_wrong(self, arguments: dict[str, Any]) -> bool:
        devices = {v.device for v in arguments.values() if isinstance(v, Tensor)}
        needs_gradient = any(isinstance(v, Tensor) and v.requires_grad for v in arguments.values())
        if len(devices) > 1 or (self.target.raw and needs_gradient):
            return True
        return self.mutation.wrong and not self.target.raw

    def _judge_exception(self, fault: Exception) -> str:
        if self.target.raw or self.mutation.absurd:  # the latter may end where memory ends
            return "raised"
        names = rf".*\b({'|'.join(self.target.arguments)})\b" if len(self.target.arguments) > 1 else ""
        pattern = rf"{self.target.name}: want {names}.*got"
        if isinstance(fault, (TypeError, ValueError)) and re.match(pattern, str(fault), re.DOTALL):
            return "raised"
        return f"WRONG: want a TypeError or ValueError like '{pattern}', got {_short(fault)}"

    def _compare(self, got: Outcome, run: Callable[..., Outcome]) -> str:
        eager, exact = (run(self.target.reference, self._for_reference(double=d)) for d in (False, True))
        if isinstance(eager, MemoryError | RuntimeError) and self.mutation.absurd:
            return "right for all we know: the reference needs more memory than there is"
        if isinstance(got, Exception) or isinstance(eager, Exception):
            if isinstance(got, Exception) and isinstance(eager, Exception):
                return "raised"
            return f"WRONG: want {_short(eager)}, got {_short(got)}"
        if isinstance(exact, Exception):  # what float64 alone refuses
            exact = [_double(e) for e in eager]
        try:
            for tensors in zip(got, eager, exact, strict=True):
                _same(*tensors)
        except (AssertionError, ValueError) as fault:
            return f"WRONG: {fault}"
        return "right"


def calls_of(target: Target) -> Iterator[BadCall]:
    """The right call as it is, then every mutation of every argument."""
    first = next(iter(target.arguments))
    yield BadCall(target, first, Mutation(RIGHT, lambda value: value))
    for name, value in target.arguments.items():
        for mutation in of(value, name in target.optional):
            meaningless = mutation.values and name in target.derived
            hopeless = mutation.absurd and not target.native
            if not (meaningless or hopeless):
                yield BadCall(target, name, mutation)


def _outcome(function: Callable[..., Any], arguments: dict[str, Any]) -> Outcome:
    before = {k: v.clone() for k, v in arguments.items() if _is_plain(v) and v.numel() < SMALL}
    try:
        results = function(*arguments.values())
    except Exception as fault:
        return fault
    if results is None:  # an op in place
        results = next(iter(arguments.values()))
    found = flat(results)
    written = {r.data_ptr() for r in found if _is_plain(r)}
    for name, value in before.items():
        if arguments[name].data_ptr() not in written and not torch.equal(arguments[name], value):
            return AssertionError(f"wrote into {name}")
    return [r.detach() for r in found]


def _gradients(function: Callable[..., Any], arguments: dict[str, Any]) -> Outcome:
    """Of all floating-point arguments but tables."""
    leaves = leaves_of(arguments)
    wanted = [v for v in leaves.values() if isinstance(v, Tensor) and v.requires_grad]
    try:
        results = [r for r in flat(function(*leaves.values())) if r.requires_grad]
        grads = [draw(*r.shape, seed=9).to(r.dtype) for r in results]
        found = torch.autograd.grad(results, wanted, grads, allow_unused=True, materialize_grads=True)
    except Exception as fault:
        return fault
    return list(found)


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _double(value: Any) -> Any:
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        return value.to(WIDER.get(value.dtype, torch.float64))
    return value


def _short(outcome: Outcome) -> str:
    if isinstance(outcome, Exception):
        return f"{type(outcome).__name__}: {str(outcome).strip().partition(chr(10))[0][:300]}"
    return f"results {[tuple(t.shape) for t in outcome]}"


def _same(got: Tensor, eager: Tensor, exact: Tensor) -> None:
    """As near as rounding allows, and not finite only where the reference is not."""
    facts = [(t.shape, t.dtype, t.device, t.layout) for t in (got, eager)]
    if facts[0] != facts[1]:
        raise AssertionError(f"want {facts[1]}, got {facts[0]}")
    if got.is_meta or got.dtype not in COMPARED:
        return
    tensors = [t.to_dense() if t.layout != torch.strided else t for t in (got, eager, exact)]
    if got.is_complex():
        tensors = [torch.view_as_real(t.resolve_conj()) for t in tensors]
    assert_not_wrong(*tensors)
