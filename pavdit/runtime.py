"""Where and how the models run: device, dtype, and what serves them there, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import torch

from pavdit.nn.frame_attention import BackendChoice, choose_backend
from pavdit.ops.scaled_linear import fp8_missing
from pavdit.stdit.fast import ABSORBED_TEXT

DtypeName = Literal["auto", "float32", "bfloat16"]
Tier = Literal["exact", "fast"]
TIERS = ("exact", "fast")
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
    tier: Tier
    """``fast`` switches on what follows where it is not said to be off; its results differ from ``exact``."""
    fp8: bool | None
    """Whether STDiT's QKV and MLP are products of e4m3 numbers; emulated on a CPU, for the error alone."""
    absorbed: bool | None
    """Whether cross-attention to short text has its layers multiplied into the text."""
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
    fp8: Switch
    absorbed: Switch
    attention: str = "auto"

    @classmethod
    def choose(
        cls,
        device: torch.device | str = "cpu",
        dtype: DtypeName = "auto",
        graph: bool | None = None,
        compile: bool | None = None,
        tier: Tier = "exact",
        fp8: bool | None = None,
        absorbed: bool | None = None,
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
        if tier not in TIERS:
            raise ValueError(f"tier: want {' or '.join(TIERS)}, got {tier!r}")
        fast = tier == "fast"
        return cls(
            device,
            DTYPES[dtype],
            _switch(graph, on_cuda, "a step is one launch" if on_cuda else "no CUDA"),
            _switch(compile, on_cuda, "fewer launches" if on_cuda else "gains nothing on a CPU"),
            _fp8(device, dtype) if (fast if fp8 is None else fp8) else Switch(False, f"tier {tier}"),
            Switch(True, f"text of at most {ABSORBED_TEXT} tokens, longer text takes the exact path")
            if (fast if absorbed is None else absorbed)
            else Switch(False, f"tier {tier}"),
            attention,
        )

    def described(self) -> dict[str, str]:
        """For a file's metadata: what may change a sample's rounding."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "compile": "on" if self.compile.on else "off",
            "attention": self.attention,
        }

    def attention_of(self, num_tokens: int, head_dim: int) -> BackendChoice:
        """What serves attention inside frames of `num_tokens`.

        Raises:
            ValueError: as for `choose_backend`.
        """
        return choose_backend(self.attention, self.device, self.dtype, num_tokens, head_dim)


def _fp8(device: torch.device, dtype: str) -> Switch:
    """On, with how; an error where the device cannot."""
    missing = fp8_missing(device)
    if device.type == "cuda" and (missing or dtype != "bfloat16"):
        raise ValueError(f"fp8: want a device with e4m3 products and bfloat16, got {missing or dtype}")
    return Switch(True, missing or "torch._scaled_mm")


def _switch(asked: bool | None, default: bool, why: str) -> Switch:
    """What was asked for, or the default with its reason."""
    return Switch(default, why) if asked in (None, default) else Switch(bool(asked), "as asked")
