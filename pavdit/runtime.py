"""Where and how the models run: device, dtype, and what serves them there, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import torch

from pavdit.nn.frame_attention import BackendChoice, choose_backend

DtypeName = Literal["auto", "float32", "bfloat16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Settings(TypedDict, total=False):
    """The keyword arguments that say how models run; what is missing, or None, is chosen for the device."""

    dtype: DtypeName
    """Of the weights and of what passes between layers; P and the sound's inverse stay float32. ``auto``:
    bfloat16 on CUDA, else float32."""
    graph: bool | None
    """Whether a step is one CUDA graph; None: where there is CUDA."""
    compile: bool | None
    """Whether STDiT's blocks are compiled; None: where there is CUDA. On a CPU it gains nothing."""
    attention: str
    """What serves attention inside a frame: ``block``, ``sdpa``, ``flash``; ``auto``: what was measured to be
    fastest on such a machine, see `pavdit.nn.frame_attention`."""


@dataclass(frozen=True, slots=True)
class Switch:
    """Whether something serves, and why.

    Attributes:
        on: it does.
        why: the reason, a few words.
    """

    on: bool
    why: str

    def __str__(self) -> str:
        return f"{'on' if self.on else 'off'}: {self.why}"


@dataclass(frozen=True, slots=True)
class Runtime:
    """How models run on a device; see `Settings`."""

    device: torch.device
    dtype: torch.dtype
    graph: Switch
    compile: Switch
    attention: str = "auto"

    @classmethod
    def choose(
        cls,
        device: torch.device | str = "cpu",
        dtype: DtypeName = "auto",
        graph: bool | None = None,
        compile: bool | None = None,
        attention: str = "auto",
    ) -> Runtime:
        """The settings asked for, and for the others what suits the device.

        Raises:
            ValueError: a setting does not exist, or not on this device.
        """
        device = torch.device(device)
        on_cuda = device.type == "cuda"
        if dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype: want auto, float32 or bfloat16, got {dtype!r}")
        if graph and not on_cuda:
            raise ValueError(f"graph: want a CUDA device for CUDA graphs, got {device}")
        if dtype == "auto":
            dtype = "bfloat16" if on_cuda else "float32"
        return cls(
            device,
            DTYPES[dtype],
            _switch(graph, on_cuda, "a step is one launch" if on_cuda else "no CUDA"),
            _switch(compile, on_cuda, "fewer launches" if on_cuda else "gains nothing on a CPU"),
            attention,
        )

    def attention_of(self, num_tokens: int, head_dim: int) -> BackendChoice:
        """What serves attention inside frames of `num_tokens`.

        Raises:
            ValueError: as for `choose_backend`.
        """
        return choose_backend(self.attention, self.device, self.dtype, num_tokens, head_dim)


def _switch(asked: bool | None, default: bool, why: str) -> Switch:
    """What was asked for, or the default with its reason."""
    return Switch(default, why) if asked in (None, default) else Switch(bool(asked), "as asked")
