"""The same module once more, so that a part of it can be replaced and the first stays as it is."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def twin(module: Module) -> Module:
    """A module of its own with the same parameters, buffers and children.

    What stands in for a method of the first one, such as its compiled form, is bound to the first one and is
    left out.
    """
    second = copy.copy(module)
    second._modules = dict(module._modules)
    second._parameters = dict(module._parameters)
    second._buffers = dict(module._buffers)
    for name in [name for name in vars(second) if callable(getattr(type(second), name, None))]:
        del second.__dict__[name]
    return second
