"""Tokens of a condition, and the few lengths that the generator ever sees.

An encoder may give any length. The generator wants few different shapes (one graph, one compilation each), so
tokens are padded to the next bucket. Lengths stay on the host: choosing a bucket never waits for a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pad

BUCKETS = (8, 16, 32, 64, 128, 300)
"""Token counts that the generator is run with; 300 is Open-Sora 1.2's longest caption."""


@dataclass(frozen=True, slots=True)
class TextTokens:
    """Encoded prompts.

    Attributes:
        tokens: ``(B, N, D)``, D the encoder's width; what lies beyond a prompt's length is padding.
        lengths: tokens of each prompt, 1 to N, on the host.

    Raises:
        ValueError: the lengths do not fit the tokens.
    """

    tokens: Tensor
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or len(self.lengths) != self.tokens.shape[0]:
            raise ValueError(
                f"TextTokens: want tokens (B,N,D) and B lengths, got {tuple(self.tokens.shape)} "
                f"and {len(self.lengths)} lengths"
            )
        if not all(1 <= length <= self.tokens.shape[1] for length in self.lengths):
            raise ValueError(f"TextTokens: want lengths in 1..{self.tokens.shape[1]}, got {self.lengths}")


class TextEncoder(Protocol):
    """What the pipeline asks of a condition encoder."""

    dim: int
    """Width of its tokens."""

    class_names: tuple[str, ...]
    """The only prompts that it knows; empty: it takes any text."""

    def encode(self, prompts: list[str]) -> TextTokens:
        """Encode one prompt per clip.

        Raises:
            ValueError: it cannot encode a prompt; the message quotes it.
        """
        ...


@runtime_checkable
class LearnedEncoder(TextEncoder, Protocol):
    """An encoder that is trained with the generator: its rows are looked up on the host, its table is not."""

    def rows(self, prompts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        """Which rows make each prompt, ``(B,)`` or ``(B, N)`` int64 on the CPU, and how many tokens it has.

        Raises:
            ValueError: it cannot encode a prompt.
        """
        ...

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows to tokens ``(B, N, D)``, differentiable."""
        ...


def knows(text: LearnedEncoder, prompt: str) -> bool:
    """Whether its table has rows for a prompt."""
    try:
        text.rows([prompt])
    except ValueError:
        return False
    return True


def bucket_of(length: int, max_length: int) -> int:
    """The smallest bucket that holds `length` tokens; `max_length` is the last bucket.

    Raises:
        ValueError: `length` is above `max_length`. Prompts are never cut silently.
    """
    if length > max_length:
        raise ValueError(f"prompt: want at most {max_length} tokens, got {length}")
    return min((bucket for bucket in BUCKETS if length <= bucket < max_length), default=max_length)


def to_bucket(text: TextTokens, max_length: int) -> tuple[Tensor, Tensor | None]:
    """Pad (or trim padding) to the bucket of the longest prompt.

    Args:
        text: the encoder's tokens.
        max_length: tokens that the generator accepts (`STDiTConfig.max_text_length`).

    Returns:
        tokens ``(B, bucket, D)`` and mask ``(B, bucket)``, True on tokens; the mask is None where every
        prompt fills the bucket, so that the generator runs unmasked.

    Raises:
        ValueError: a prompt has more than `max_length` tokens.
    """
    bucket = bucket_of(max(text.lengths), max_length)
    mask = bucket_mask(text.lengths, bucket)
    return pad_to(text.tokens, bucket), None if mask is None else mask.to(text.tokens.device)


def pad_to(tokens: Tensor, bucket: int) -> Tensor:
    """``(B, N, D)`` to ``(B, bucket, D)``; never waits for the device."""
    return pad(tokens[:, :bucket], (0, 0, 0, max(0, bucket - tokens.shape[1])))


def bucket_mask(lengths: Sequence[int], bucket: int) -> Tensor | None:
    """``(B, bucket)`` bool on the CPU, True on tokens; None where every prompt fills the bucket."""
    if min(lengths) == bucket:
        return None
    return torch.arange(bucket) < torch.tensor(lengths)[:, None]
