"""What a frozen language model says of a set's captions: computed once, read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch.nn.functional import pad

from pavdit.data.shards import ALL, Rows, Shards, Share, content_key
from pavdit.text import EncoderFiles, PretrainedEncoder, TextTokens


class CaptionTable:
    """A text encoder that knows the captions of a set and needs no language model.

    Args:
        root: folder of all caches.
        files: the language model.

    Attributes:
        dim: D, width of a token.
        class_names: none; the set may have any captions.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, root: Path, files: EncoderFiles) -> None:
        self.files, self.dim = files, files.dim
        self.shards = Shards(root / f"captions-{files.weights}")

    def __deepcopy__(self, _memo: object) -> CaptionTable:
        return self  # shared by a generator and its average

    def fill(
        self,
        captions: Sequence[str],
        device: torch.device,
        *,
        share: Share = ALL,
        say: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> None:
        """Encode what is missing of this process's share; the model is loaded only if something is.

        Raises:
            DataError: the model's files are damaged.
            ValueError: a caption is too long for the model.
            OSError: the disk is full; what was encoded stays.
        """

        def rows(model: PretrainedEncoder, places: Sequence[int]) -> Rows:
            text = model.encode([captions[i] for i in places])
            for place, tokens, length in zip(places, text.tokens.cpu(), text.lengths, strict=True):
                yield place, {"tokens": tokens, "length": torch.tensor(length)}

        def encode(shards: Sequence[Sequence[int]]) -> Iterator[Rows]:
            model = self.files.load(device)
            return (rows(model, places) for places in shards)

        keys = [content_key(caption) for caption in captions]
        self.shards.fill(keys, encode, share=share, say=say, progress=progress)

    def encode(self, prompts: list[str]) -> TextTokens:
        """Tokens ``(B, N, D)`` of captions of the set, on the CPU.

        Raises:
            ValueError: one is not of the set.
        """
        tokens = []
        for prompt in prompts:
            key = content_key(prompt)
            if key not in self.shards.places:
                raise ValueError(f"prompt: want a caption of the training set, got {prompt!r}")
            row = self.shards.row(key)
            tokens.append(row["tokens"][: int(row["length"])].float())
        longest = max(map(len, tokens))
        padded = torch.stack([pad(t, (0, 0, 0, longest - len(t))) for t in tokens])  # (B, N, D)
        return TextTokens(padded, tuple(map(len, tokens)))
