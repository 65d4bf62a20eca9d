"""Sets of adapters of a frozen transformer: made, put on, merged. The transformer itself is never changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from pavdit.config.adapter import AdapterShape
from pavdit.nn.adapters.branches import BottleneckMLP, Branched, TemporalAdapter, with_branches
from pavdit.nn.adapters.lora import LoRA, LoRALinear, with_lora
from pavdit.nn.twin import twin

NAMES_IN_A_MESSAGE = 4

Module = TypeVar("Module", bound=nn.Module)


class Adapters(nn.Module):
    """What is trained of an adapted transformer, and nothing else: its parameters are the whole state.

    They are named after their places: ``blocks.0.attention.qkv.lora.down``.

    Args:
        backbone: what they are for; only its names and sizes count.
        shape: where they sit and how large they are.

    Raises:
        ValueError: a pattern names nothing that can have such an adapter.
    """

    def __init__(self, backbone: nn.Module, shape: AdapterShape) -> None:
        super().__init__()
        self.shape = shape
        alpha = shape.rank if shape.alpha is None else shape.alpha
        for place, module in _matches(backbone, "targets", shape.targets, linear=True):
            assert isinstance(module, nn.Linear)  # noqa: S101 - asked for those
            self._put(place, "lora", LoRA(module.in_features, module.out_features, shape.rank, alpha))
        for place, module in _matches(backbone, "temporal", shape.temporal):
            self._put(place, "temporal", TemporalAdapter(_width(module), ratio=shape.temporal_ratio))
        for place, module in _matches(backbone, "bottleneck", shape.bottleneck):
            self._put(place, "bottleneck", BottleneckMLP(_width(module), shape.bottleneck_ratio))

    def _put(self, place: str, kind: str, adapter: nn.Module) -> None:
        node: nn.Module = self
        for name in place.split("."):
            if name not in node._modules:
                node.add_module(name, nn.Module())
            node = node.get_submodule(name)
        node.add_module(kind, adapter)

    def placed(self) -> Iterator[tuple[str, nn.Module]]:
        """Every adapter with the name of the module that it is for."""
        for name, module in self.named_modules():
            if isinstance(module, LoRA | TemporalAdapter | BottleneckMLP):
                yield name.rpartition(".")[0], module


Weighted = Sequence[tuple[Adapters, float]]
"""Sets of adapters, each with the strength that it counts with; 1 is as trained, 0 is not at all."""


def freeze_backbone(backbone: Module) -> Module:
    """The same module, which asks for no gradient and is in evaluation mode from here on."""
    return backbone.requires_grad_(False).eval()


def adapt(backbone: Module, adapters: Weighted) -> Module:
    """A transformer with adapters, on the backbone's own parameters; with none that counts, the backbone.

    Args:
        backbone: stays as it is, so to leave adapters out again is to go on with it.
        adapters: they add up where they share a place.

    Raises:
        ValueError: a set has a place that the backbone has not, or of another size; or there are adapters on
            the backbone already.
    """
    _require_bare(backbone)
    at: dict[str, list[tuple[nn.Module, float]]] = {}
    for one, strength in adapters:
        for place, adapter in one.placed() if strength else ():
            _require_place(backbone, place, adapter)
            at.setdefault(place, []).append((adapter, strength))
    return _rebuilt(backbone, "", at) if at else backbone


def merge(backbone: Module, adapters: Weighted) -> Module:
    """A copy of the backbone that has the updates in its own weights, as fast as without.

    Raises:
        ValueError: as `adapt`; or an adapter is no update of weights.
    """
    _require_bare(backbone)
    merged = copy.deepcopy(backbone)
    for one, strength in adapters:
        for place, adapter in one.placed():
            if not isinstance(adapter, LoRA):
                raise ValueError(
                    f"merge: want low-rank updates, which are part of a weight, got {type(adapter).__name__} "
                    f"at {place}, which is a layer of its own"
                )
            _require_place(merged, place, adapter)
            weight: Tensor = merged.get_submodule(place)._parameters["weight"]  # type: ignore[assignment]
            with torch.no_grad():
                weight.copy_(weight + adapter.update(strength).to(weight.device))
    return merged


def _rebuilt(module: Module, name: str, at: Mapping[str, list[tuple[nn.Module, float]]]) -> Module:
    """`module`, called `name`, and the parts on the way to a place, as twins; all others are shared."""
    second = twin(module)
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if any(place == path or place.startswith(f"{path}.") for place in at):
            second._modules[child_name] = _rebuilt(child, path, at)
    here = at.get(name, [])
    updates = [(a, strength) for a, strength in here if isinstance(a, LoRA)]
    branches = [(a, strength) for a, strength in here if not isinstance(a, LoRA)]
    if updates:
        assert isinstance(second, nn.Linear)  # noqa: S101 - `_require_place` asked
        second = cast(Module, with_lora(second, updates))
    return with_branches(second, branches) if branches else second


def _matches(
    backbone: nn.Module, option: str, patterns: Sequence[str], *, linear: bool = False
) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose names fit a pattern, each once, in the backbone's order."""
    modules = {
        name: module
        for name, module in backbone.named_modules()
        if name and (isinstance(module, nn.Linear) if linear else _linears(module))
    }
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            what = "linear layers" if linear else "modules with linear layers"
            shown = ", ".join(list(modules)[:NAMES_IN_A_MESSAGE])
            raise ValueError(f"adapter.{option}: want names of {what} ({shown}, …), got {pattern!r}")
    for name, module in modules.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            yield name, module


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


def _width(module: nn.Module) -> int:
    """D, of what it returns."""
    return _linears(module)[-1].out_features


def _require_bare(backbone: nn.Module) -> None:
    """A second set would take the places of the first."""
    if any(isinstance(part, LoRALinear | Branched) for part in backbone.modules()):
        raise ValueError("adapters: want a backbone without any (several go on together), got an adapted one")


def _require_place(backbone: nn.Module, place: str, adapter: nn.Module) -> None:
    try:
        module = backbone.get_submodule(place)
    except AttributeError:
        raise ValueError(f"adapter: want a place of the backbone, got {place}, which it has not") from None
    if isinstance(adapter, LoRA):
        got = (adapter.up.shape[0], adapter.down.shape[1])
        want = (module.out_features, module.in_features) if isinstance(module, nn.Linear) else None
        if got != want:
            raise ValueError(f"adapter: want an update of {want} at {place}, got one of {got}")
        return
    want_width, got_width = _width(module), _linears(adapter)[-1].out_features
    if want_width != got_width:
        raise ValueError(f"adapter: want width {want_width} at {place}, got {got_width}")
