"""Known words need nothing; other text goes to a language model, which is loaded when it is first asked."""

from __future__ import annotations

import copy

import pytest
import torch

from pavdit.clip import DataError
from pavdit.config import ConfigError, TextConfig
from pavdit.text import EncoderFiles, FreeTextEncoder, LearnedEncoder, OnDemand, WordEncoder

VOCABULARY = ("a", "ball", "metal")
CPU = torch.device("cpu")


@pytest.fixture
def files(tiny_t5) -> EncoderFiles:
    return EncoderFiles.find(TextConfig(encoder="words", language="t5", path=tiny_t5))


def encoder_of(files: EncoderFiles, **about: object) -> FreeTextEncoder:
    named = {"encoder": "words", "language": "t5", "path": files.path, "weights": files.weights}
    language = OnDemand(TextConfig.model_validate(named | about), files.dim, CPU)
    return FreeTextEncoder(VOCABULARY, files.dim, language=language)


def test_each_prompt_goes_to_the_one_who_knows_it(files, monkeypatch) -> None:
    encoder = encoder_of(files)
    words = WordEncoder(VOCABULARY, files.dim)
    words.load_state_dict(encoder.state_dict())  # the language model is no part of the weights
    said = files.load(CPU).encode(["a video of rain"])
    text = encoder.encode(["a metal ball", "a video of rain"])
    known = words.encode(["a metal ball"])
    assert text.lengths == (3, *said.lengths)
    assert text.tokens[0, :3].equal(known.tokens[0])
    assert text.tokens[1, : said.lengths[0]].equal(said.tokens[0])
    monkeypatch.setattr(EncoderFiles, "find", None)  # it is loaded now
    assert copy.deepcopy(encoder).encode(["rain"]).lengths == encoder.encode(["rain"]).lengths
    assert isinstance(encoder, LearnedEncoder)


def test_without_the_language_model_known_words_serve(files, tmp_path) -> None:
    encoder = encoder_of(files, path=tmp_path / "gone")
    assert encoder.encode(["metal ball"]).lengths == (2,)
    with pytest.raises(
        ValueError, match=r"^prompt 'a dog': want words of a, ball, metal; got dog; for other"
    ):
        encoder.encode(["a dog"])
    with pytest.raises(ValueError, match="want 1 to 32 words, got 0$"):
        encoder.encode([" "])


def test_another_language_model_is_refused(files) -> None:
    with pytest.raises(DataError, match=f"want the t5 model 0123456789ab that .* got {files.weights}$"):
        encoder_of(files, weights="0123456789ab").encode(["a dog"])


def test_what_is_named_need_not_be_there_until_it_is_loaded(files, tmp_path) -> None:
    gone = TextConfig(encoder="words", language="t5", path=tmp_path / "gone", weights=files.weights)
    named = EncoderFiles.named(gone, files.dim)
    assert (named.weights, named.dim) == (files.weights, files.dim)
    with pytest.raises(ConfigError, match=f"want the t5 model {files.weights} for new captions, got none"):
        named.load(CPU)
    with pytest.raises(ConfigError, match="want a folder with a language model"):
        EncoderFiles.named(gone.model_copy(update={"weights": ""}), files.dim)


def test_a_language_stands_beside_words_only() -> None:
    with pytest.raises(ValueError, match="want encoder 'words' for a language beside it, got 'classes'"):
        TextConfig(language="minilm")
