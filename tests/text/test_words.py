"""Prompts made of a known vocabulary."""

from __future__ import annotations

import pytest
import torch

from pavdit.text import LearnedEncoder, TextEncoder, WordEncoder, to_bucket, vocabulary_of
from pavdit.text.words import words_of

VOCABULARY = vocabulary_of(["A metal ball bounces 3 times", "glass_and_metal"])


def test_words_are_letters_and_digits_in_lower_case() -> None:
    assert words_of("The  Sound_of 2 balls, ringing!") == ["the", "sound", "of", "2", "balls", "ringing"]
    assert VOCABULARY == ("3", "a", "and", "ball", "bounces", "glass", "metal", "times")


def test_a_sentence_and_its_class_are_its_words() -> None:
    encoder: TextEncoder = WordEncoder(VOCABULARY, dim=6, max_words=5)
    assert isinstance(encoder, LearnedEncoder)
    text = encoder.encode(["metal ball", "Metal_ball!", "a ball", "a glass ball bounces"])
    assert text.lengths == (2, 2, 2, 4) and text.tokens.shape == (4, 4, 6)
    assert text.tokens[0].equal(text.tokens[1]) and not text.tokens[0, :2].equal(text.tokens[2, :2])
    swapped = encoder.encode(["ball metal"]).tokens
    assert not swapped.equal(text.tokens[:1, :2])  # order counts


def test_rows_padded_to_a_bucket_give_the_same_tokens() -> None:
    encoder = WordEncoder(VOCABULARY, dim=6, max_words=4)
    rows, lengths = encoder.rows(["a metal ball"])
    longer = encoder(torch.nn.functional.pad(rows, (0, 5)))
    tokens, mask = to_bucket(encoder.encode(["a metal ball"]), 300)
    assert lengths == (3,) and mask is not None
    assert longer.shape == tokens.shape == (1, 8, 6) and longer[mask].equal(tokens[mask])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a wooden ball", r"prompt 'a wooden ball': want words of 3, a, .*times; got wooden"),
        ("", r"prompt '': want 1 to 4 words, got 0"),
        ("a a a a a", "want 1 to 4 words, got 5"),
    ],
)
def test_other_prompts_are_refused(prompt, message) -> None:
    with pytest.raises(ValueError, match=message):
        WordEncoder(VOCABULARY, dim=6, max_words=4).encode([prompt])


@pytest.mark.parametrize("vocabulary", [(), ("b", "a"), ("a", "a"), ("A",), ("a b",)])
def test_a_vocabulary_is_words(vocabulary) -> None:
    with pytest.raises(ValueError, match="want words in lower case, sorted"):
        WordEncoder(vocabulary, dim=6)
