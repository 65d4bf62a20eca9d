"""Class names as prompts: a learned table, nothing to download."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pavdit.text.tokens import TextTokens

PREFIX = "a video of "
NAMES_IN_A_MESSAGE = 10


class ClassEncoder(nn.Module):
    """Learned tokens per class. ``rain`` and ``a video of rain`` are the same prompt.

    Args:
        class_names: the known classes, as the data set names them; the order is the table's.
        dim: D, width of a token.
        tokens_per_class: N, tokens of a class.

    Raises:
        ValueError: no names, or one twice.
    """

    def __init__(self, class_names: Sequence[str], dim: int, tokens_per_class: int = 8) -> None:
        super().__init__()
        if not class_names or len(set(class_names)) != len(class_names):
            raise ValueError(
                f"ClassEncoder: want different class names, at least one, got {list(class_names)}"
            )
        self.class_names = tuple(class_names)
        self.dim = dim
        # unit variance, like the features of a language model
        self.table = nn.Parameter(torch.randn(len(class_names), tokens_per_class, dim))

    def index(self, prompt: str) -> int:
        """The class that a prompt names.

        Raises:
            ValueError: none does; the message names the known ones.
        """
        for name in (prompt, prompt.removeprefix(PREFIX)):
            if name in self.class_names:
                return self.class_names.index(name)
        known = ", ".join(self.class_names[:NAMES_IN_A_MESSAGE])
        more = ", …" if len(self.class_names) > NAMES_IN_A_MESSAGE else ""
        raise ValueError(
            f'prompt: want "<class>" or "{PREFIX}<class>" with a class of {known}{more}; got {prompt!r}'
        )

    def rows(self, prompts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        """Class indices ``(B,)`` int64 on the CPU, and how many tokens each has.

        Raises:
            ValueError: a prompt names no known class.
        """
        return torch.tensor([self.index(prompt) for prompt in prompts]), (self.table.shape[1],) * len(prompts)

    def encode(self, prompts: list[str]) -> TextTokens:
        """Look up one class per prompt: tokens ``(B, N, D)``, all of full length, differentiable.

        Raises:
            ValueError: a prompt names no known class.
        """
        indices, lengths = self.rows(prompts)
        return TextTokens(self(indices.to(self.table.device)), lengths)

    def forward(self, indices: Tensor) -> Tensor:
        """Class indices ``(B,)`` int64 to tokens ``(B, N, D)``."""
        return self.table.index_select(0, indices)
