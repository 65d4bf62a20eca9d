"""Buckets: the smallest that fits, masks only where needed, nothing cut."""

from __future__ import annotations

import pytest
import torch

from pavdit.text import BUCKETS, TextTokens, bucket_of, to_bucket


@pytest.mark.parametrize(
    ("length", "bucket"),
    [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (33, 64), (65, 128), (128, 128), (129, 300), (300, 300)],
)
def test_bucket_is_the_smallest_that_fits(length: int, bucket: int) -> None:
    assert bucket_of(length, max_length=300) == bucket


def test_the_models_limit_is_the_last_bucket() -> None:
    assert {bucket_of(n, max_length=50) for n in range(1, 51)} == {8, 16, 32, 50}


def test_a_longer_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="^prompt: want at most 50 tokens, got 51$"):
        to_bucket(TextTokens(torch.zeros(1, 60, 4), (51,)), max_length=50)


def test_padding_and_mask() -> None:
    tokens = torch.randn(2, 5, 4)
    padded, mask = to_bucket(TextTokens(tokens, (5, 3)), max_length=300)
    assert padded.shape == (2, 8, 4)
    assert torch.equal(padded[:, :5], tokens)
    assert not padded[:, 5:].any()
    assert mask is not None
    assert mask.tolist() == [[True] * 5 + [False] * 3, [True] * 3 + [False] * 5]


@pytest.mark.parametrize("bucket", BUCKETS)
def test_full_buckets_need_no_mask(bucket: int) -> None:
    tokens = torch.randn(2, bucket, 4)
    same, mask = to_bucket(TextTokens(tokens, (bucket, bucket)), max_length=300)
    assert mask is None
    assert torch.equal(same, tokens)


def test_only_padding_is_trimmed() -> None:
    tokens = torch.randn(2, 40, 4)
    trimmed, mask = to_bucket(TextTokens(tokens, (8, 2)), max_length=300)
    assert torch.equal(trimmed, tokens[:, :8])
    assert mask is not None
    assert mask.sum(1).tolist() == [8, 2]


def test_gradient_passes() -> None:
    tokens = torch.randn(2, 5, 4, requires_grad=True)
    to_bucket(TextTokens(tokens, (5, 3)), max_length=300)[0].sum().backward()
    assert torch.equal(tokens.grad, torch.ones(2, 5, 4))


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((2, 5), (5, 5), "want tokens .B,N,D. and B lengths, got .2, 5. and 2 lengths"),
        ((2, 5, 4), (5,), "want tokens .B,N,D. and B lengths, got .2, 5, 4. and 1 lengths"),
        ((2, 5, 4), (6, 1), "want lengths in 1..5, got .6, 1."),
        ((2, 5, 4), (5, 0), "want lengths in 1..5, got .5, 0."),
    ],
)
def test_lengths_are_checked(shape: tuple[int, ...], lengths: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^TextTokens: {message}$"):
        TextTokens(torch.zeros(shape), lengths)
