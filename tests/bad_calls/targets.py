"""What is called wrongly: every public op, and every raw op behind it, each with right arguments.

A public op has its right arguments in `BASES`. Raw ops need no entry: those that a public op runs are
recorded while it goes forward and backward; the others get the arguments of the public op of their name.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import interpreted  # noqa: F401 - repairs Triton's interpreter
import torch
from attention_loops import angles
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

COMPOSITE = "CompositeExplicitAutograd"
REFERENCES: dict[str, Callable[..., Any]] = {}
"""Raw op to what its file registers for every device without a kernel of its own."""


def _remember(name: str, key: str, function: Callable[..., Any]) -> None:
    if key == COMPOSITE:
        REFERENCES[name.removeprefix("pavdit::")] = function
    _impl(name, key, function)


if "pavdit.ops" in sys.modules:
    raise ImportError("bad_calls: want to be imported before pavdit.ops, whose references it collects")
_impl = torch.library.impl
with mock.patch.object(torch.library, "impl", _remember):
    import pavdit.ops
    from pavdit.ops._checks import FLOATING as FLOATING


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm(width: int) -> dict[str, Tensor]:
    return {name: 1 + 0.2 * draw(width, seed=seed) for seed, name in enumerate(("q_weight", "k_weight"))}


GROUPS = {"shift": draw(2, 2, 8, seed=1), "scale": draw(2, 2, 8, seed=2), "eps": 1e-6}
MASK = torch.tensor([[True, True, False, True], [False, True, True, True]])
SOUND = {"window": torch.hann_window(16), "n_fft": 32, "hop_length": 8}
FRAMES = {"filterbank": draw(5, 17, seed=1).abs() / 17, "columns_per_frame": 4, "floor_db": -100.0}
SPECTRUM = {
    "previous": torch.complex(draw(2, 8, 17, seed=1), draw(2, 8, 17, seed=2)),
    "magnitude": draw(2, 8, 17, seed=3).abs(),
    "square_sum": 1 + draw(64, seed=4).abs(),
    "momentum": 0.9,
}
BLOCKS = {
    "q": draw(2, 2, 4, 2, 2, 8),
    "k": draw(2, 2, 4, 2, 2, 8, seed=1),
    "v": draw(2, 2, 4, 2, 2, 8, seed=2),
}

FP8 = torch.float8_e4m3fn

BASES: dict[str, list[dict[str, Any]]] = {
    "absorbed_attention": [
        {
            "x": draw(2, 5, 8),
            "keys": draw(2, 2, 3, 8, seed=1),
            "bias": draw(2, 2, 3, seed=2),
            "values": draw(2, 2, 3, 8, seed=3),
        }
    ],
    "adaln_modulate": [{"x": draw(2, 4, 3, 8), **GROUPS}],
    "axis_attention": [
        {"qkv": draw(2, 4, 3, 2, 8), "axis": 1, "valid": MASK, **norm(8), "rope": angles(4, 8)},
        {
            "qkv": draw(3, 2, 3, 1, 6),
            "axis": 0,
            "valid": None,
            "q_weight": None,
            "k_weight": None,
            "rope": None,
        },
    ],
    "axis_query_attention": [
        {"q": draw(2, 1, 1, 2, 8), "kv": draw(2, 4, 2, 2, 8, seed=1), "axis": 1, "valid": MASK}
    ],
    "block_attention": [
        {**BLOCKS, "block": [1, 2, 2], "valid": MASK[:, None, :, None], **norm(8), "rope": angles(4, 8)},
        {**BLOCKS, "block": [2, 2, 1], "valid": None, "q_weight": None, "k_weight": None, "rope": None},
    ],
    "block_cross_attention": [
        {"qkv_a": draw(2, 2, 4, 2, 3, 2, 8), "qkv_b": draw(2, 2, 4, 2, 3, 2, 8, seed=1), "block": [1, 2, 2]}
    ],
    "bounce_sign": [{"z": 3 * draw(2, 3, 4)}],
    "fold": [{"z": 3 * draw(2, 3, 4)}],
    "gated_residual_adaln": [
        {"x": draw(2, 4, 3, 8), "y": draw(2, 4, 3, 8, seed=5), "gate": draw(2, 4, 8, seed=6), **GROUPS},
        {"x": draw(2, 4, 3, 8), "y": draw(2, 4, 3, 8, seed=5), "gate": None, **GROUPS},
    ],
    "gated_residual_adaln_fp8": [
        {"x": draw(2, 2, 1, 8), "y": draw(2, 2, 1, 8, seed=5), "gate": draw(2, 2, 8, seed=6), **GROUPS},
        {"x": draw(2, 2, 1, 8), "y": draw(2, 2, 1, 8, seed=5), "gate": None, **GROUPS},
    ],
    "geglu_mlp": [
        {
            "x": draw(2, 3, 8),
            "weight_in": draw(10, 8, seed=1),
            "bias_in": draw(10, seed=2),
            "weight_out": draw(6, 5, seed=3),
            "bias_out": draw(6, seed=4),
        }
    ],
    "gelu_fp8": [{"x": draw(2, 3, 8)}],
    "griffin_lim_step": [{"columns": draw(2, 8, 16), **SPECTRUM, **SOUND}],
    "guided_euler_step_": [
        {
            "latent": draw(2, 3, 4, 2, 5).clamp(-1, 1),
            "velocity": draw(4, 3, 4, 2, 5, seed=1),
            "dt": 0.1,
            "guidance_scale": 4.0,
            "target": MASK,
            "reflect": True,
        }
    ],
    "linear_gelu": [{"x": draw(2, 3, 8), "weight": draw(5, 8, seed=1), "bias": draw(5, seed=2)}],
    "log_mel_frames": [{"wave": 0.1 * draw(2, 64), **SOUND, **FRAMES}],
    "multiscale_temporal_attention": [{"qkv": draw(2, 8, 3, 3, 2, 8)}],
    "qk_norm_rope": [{"qkv": draw(2, 4, 3, 2, 8), **norm(8), "rope": angles(4, 8)}],
    "scaled_linear": [
        {
            "values": draw(2, 3, 8).to(FP8),
            "scale": draw(2, 3, 1, seed=1).abs(),
            "weight": draw(5, 8, seed=2).to(FP8),
            "weight_scale": draw(5, 1, seed=3).abs(),
            "bias": draw(5, seed=4),
        }
    ],
}
RAW_BASES: dict[str, list[dict[str, Any]]] = {
    "linear_gelu_onednn": BASES["linear_gelu"],
    "qk_norm_rope_backward": [{"grad": draw(2, 4, 3, 2, 8, seed=3), **BASES["qk_norm_rope"][0]}],
}
"""For a raw op that no public op runs on a CPU and that is not named as one."""
CONSTANT = {"rope", "window", "filterbank"}
"""Tables; where one needs a gradient, no kernel serves."""
NO_GRADIENT = {
    "absorbed_attention",
    "gated_residual_adaln_fp8",
    "gelu_fp8",
    "griffin_lim_step",
    "guided_euler_step_",
    "scaled_linear",
}
"""Their inputs need none: one step of a loop that nobody differentiates, and a step in place."""


@dataclass(frozen=True)
class Target:
    """One thing to call, what is right for it, and how to call it rightly."""

    name: str
    call: Callable[..., Any]
    reference: Callable[..., Any]
    arguments: dict[str, Any]
    differentiable: bool
    raw: bool
    native: bool
    """A kernel of our own serves it here; else a raw op is plain PyTorch without any check."""
    optional: frozenset[str]
    """Arguments that may be None."""
    derived: frozenset[str] = frozenset()
    """Arguments that follow from others, like saved statistics: other values in them mean nothing."""


def public_names() -> list[str]:
    return list(pavdit.ops.__all__)


def raw_names() -> list[str]:
    """Every op of this package that torch knows."""
    names = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    return sorted(name.removeprefix("pavdit::") for name in names if name.startswith("pavdit::"))


def public_targets(name: str) -> Iterator[Target]:
    function = getattr(pavdit.ops, name)
    module = sys.modules[function.__module__]
    reference = getattr(module, f"{name.rstrip('_')}_reference", function)
    for arguments in BASES[name]:
        parameters = inspect.signature(function).parameters
        ordered = {key: arguments[key] for key in parameters}
        optional = frozenset(key for key, p in parameters.items() if "None" in str(p.annotation))
        yield Target(name, function, reference, ordered, name not in NO_GRADIENT, False, True, optional)


class _Recorder(TorchDispatchMode):
    """Keeps the arguments of one raw op."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.overload = getattr(torch.ops.pavdit, name).default
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self.overload:
            self.calls.append(tuple(a.clone() if isinstance(a, Tensor) else a for a in args))
        return func(*args, **(kwargs or {}))


def raw_targets(name: str) -> Iterator[Target]:
    overload = getattr(torch.ops.pavdit, name).default
    names = [argument.name for argument in overload._schema.arguments]
    optional = frozenset(a.name for a in overload._schema.arguments if "Optional" in str(a.type))
    wants_tensor = {a.name for a in overload._schema.arguments if str(a.type) == "Tensor"}
    calls, known = _recorded(name), set().union(*(base for bases in BASES.values() for base in bases[:1]))
    if not calls:
        bases = RAW_BASES.get(name) or BASES.get(name, [])
        calls = [tuple(base[n] for n in names) for base in bases]
    derived = frozenset(n for n in names if n not in known and not n.startswith("grad"))
    for call in calls:
        arguments = dict(zip(names, call, strict=True))
        for key in wants_tensor:  # a public op may take a number instead
            arguments[key] = torch.as_tensor(arguments[key])
        native = torch._C._dispatch_has_kernel_for_dispatch_key(f"pavdit::{name}", "CPU")
        yield Target(name, overload, REFERENCES[name], arguments, False, True, native, optional, derived)


def _recorded(name: str) -> list[tuple[Any, ...]]:
    """The calls of a raw op that public ops make on their way forward and backward."""
    with _Recorder(name) as recorder:
        for public in BASES:
            for target in public_targets(public):
                if target.differentiable:
                    leaves = leaves_of(target.arguments)
                    results = flat(target.call(**leaves))
                    torch.autograd.backward(results, [draw(*r.shape, seed=9) for r in results])
    return recorder.calls


def leaves_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """All floating-point arguments but tables need a gradient; in the places where they lie."""
    return {
        name: value.detach().requires_grad_()
        if isinstance(value, Tensor) and value.is_floating_point() and name not in CONSTANT
        else value
        for name, value in arguments.items()
    }


def flat(result: Any) -> list[Tensor]:
    """The tensors of a result."""
    return [result] if isinstance(result, Tensor) else [tensor for part in result for tensor in flat(part)]
