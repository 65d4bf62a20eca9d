"""Words that are known by heart, and a language model for all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import pad

from pavdit.clip import DataError
from pavdit.config import ConfigError, TextConfig
from pavdit.text.pretrained import EncoderFiles, PretrainedEncoder
from pavdit.text.tokens import TextEncoder, TextTokens
from pavdit.text.words import WordEncoder


class FreeTextEncoder(WordEncoder):
    """A `WordEncoder` for sentences of its words, which need nothing else; other text goes to a frozen
    language model, on whose tokens the generator was trained too.

    Args:
        vocabulary: the known words.
        dim: D, width of a token, the language model's too.
        max_words: words of the longest sentence of known words.
        language: the language model; it is no part of the weights.

    Raises:
        ValueError: as `WordEncoder`.
    """

    def __init__(
        self, vocabulary: Sequence[str], dim: int, max_words: int = 32, *, language: TextEncoder
    ) -> None:
        super().__init__(vocabulary, dim, max_words)
        self.language = language

    def encode(self, prompts: list[str]) -> TextTokens:
        """Tokens ``(B, N, D)``, zero beyond a prompt's length.

        Raises:
            ValueError: a prompt has unknown words and the language model is not there, or cannot encode it.
        """
        each = [self._encode(prompt) for prompt in prompts]
        lengths = tuple(text.lengths[0] for text in each)
        longest = max(lengths)
        rows = [pad(text.tokens[0], (0, 0, 0, longest - n)) for text, n in zip(each, lengths, strict=True)]
        return TextTokens(torch.stack(rows), lengths)

    def _encode(self, prompt: str) -> TextTokens:
        try:
            return super().encode([prompt])
        except ValueError as unknown:
            if not prompt.strip():
                raise
            try:
                spoken = self.language.encode([prompt])
            except ConfigError as error:
                raise ValueError(f"{unknown}; for other words {error}") from None
        return TextTokens(spoken.tokens.to(self.table), spoken.lengths)


class OnDemand:
    """The language model that a generator was trained with, looked for and loaded when it is first asked.

    Args:
        about: names it.
        dim: D, width of its tokens.
        device: where it runs.
        path: its folder, if it has moved.

    Attributes:
        class_names: none; it encodes any text.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, about: TextConfig, dim: int, device: torch.device, path: Path | None = None) -> None:
        self.about = about.model_copy(update={"path": path or about.path})
        self.dim, self.device = dim, device
        self._loaded: PretrainedEncoder | None = None

    def __deepcopy__(self, _memo: object) -> OnDemand:
        return self  # shared by the copies of a generator

    def encode(self, prompts: list[str]) -> TextTokens:
        """Encode one prompt per clip.

        Raises:
            ConfigError: the model is not on this machine.
            DataError: it is another one.
            ValueError: a prompt is longer than its positions.
        """
        if self._loaded is None:
            files = EncoderFiles.find(self.about)
            if files.weights != self.about.weights:
                raise DataError(
                    f"{files.path}: want the {files.kind} model {self.about.weights} that the generator was "
                    f"trained with, got {files.weights}"
                )
            self._loaded = files.load(self.device)
        return self._loaded.encode(prompts)
