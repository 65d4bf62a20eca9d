"""Sentences of a known vocabulary as prompts: a learned table of words, nothing to download."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pavdit.text.tokens import TextTokens

WORD = re.compile(r"[^\W_]+")
"""Letters and digits; whatever lies between (``_`` too, so that a class name is its words) separates."""

WORDS_IN_A_MESSAGE = 60


def words_of(text: str) -> list[str]:
    """The words of a sentence, in lower case."""
    return WORD.findall(text.lower())


def vocabulary_of(sentences: Iterable[str]) -> tuple[str, ...]:
    """Every word that occurs, sorted."""
    return tuple(sorted({word for sentence in sentences for word in words_of(sentence)}))


class WordEncoder(nn.Module):
    """A learned token per word, plus one per place in the sentence.

    Args:
        vocabulary: the known words; the order is the table's.
        dim: D, width of a token.
        max_words: words of the longest sentence.

    Attributes:
        class_names: none; it takes any sentence of its words.

    Raises:
        ValueError: no words, one twice, or one that no sentence can hold.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, vocabulary: Sequence[str], dim: int, max_words: int = 32) -> None:
        super().__init__()
        if not vocabulary or list(vocabulary) != sorted({w for v in vocabulary for w in words_of(v)}):
            raise ValueError(
                f"WordEncoder: want words in lower case, sorted, at least one, got {list(vocabulary)}"
            )
        self.vocabulary = tuple(vocabulary)
        self.dim = dim
        self._index = {word: i for i, word in enumerate(self.vocabulary)}
        # unit variance together, like the features of a language model
        self.table = nn.Parameter(torch.randn(len(self.vocabulary), dim) * 0.5**0.5)
        self.places = nn.Parameter(torch.randn(max_words, dim) * 0.5**0.5)

    def indices(self, prompt: str) -> list[int]:
        """The words of a prompt as places in the table.

        Raises:
            ValueError: none, too many, or an unknown one; the message names the known ones.
        """
        words = words_of(prompt)
        if unknown := [word for word in words if word not in self._index]:
            known = ", ".join(self.vocabulary[:WORDS_IN_A_MESSAGE])
            more = ", …" if len(self.vocabulary) > WORDS_IN_A_MESSAGE else ""
            raise ValueError(f"prompt {prompt!r}: want words of {known}{more}; got {', '.join(unknown)}")
        if not 1 <= len(words) <= len(self.places):
            raise ValueError(f"prompt {prompt!r}: want 1 to {len(self.places)} words, got {len(words)}")
        return [self._index[word] for word in words]

    def rows(self, prompts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        """Places in the table ``(B, N)`` int64 on the CPU, 0 beyond a prompt's words, and how many each has.

        Raises:
            ValueError: as `indices`.
        """
        each = [self.indices(prompt) for prompt in prompts]
        lengths = tuple(map(len, each))
        longest = max(lengths)
        return torch.tensor([places + [0] * (longest - len(places)) for places in each]), lengths

    def encode(self, prompts: list[str]) -> TextTokens:
        """Tokens ``(B, N, D)`` of sentences, differentiable.

        Raises:
            ValueError: as `indices`.
        """
        indices, lengths = self.rows(prompts)
        return TextTokens(self(indices.to(self.table.device)), lengths)

    def forward(self, indices: Tensor) -> Tensor:
        """Places in the table ``(B, N)`` int64 to tokens ``(B, N, D)``.

        N may be longer than the longest sentence: what lies beyond is padding, whose place is the last one.
        """
        places = torch.arange(indices.shape[1], device=indices.device).clamp(max=len(self.places) - 1)
        return self.table[indices] + self.places[places]
