"""A crash or a hang costs one item and no more."""

import pytest

from pavdit.data.workers import Lost, each
from tests.data.hostile import obey


def test_every_item_has_an_answer_or_a_reason() -> None:
    words = ["a", "crash", "b", "hang", "memory", "leave", "c", "d"]
    results = dict(each(obey, words, num_workers=2, seconds=lambda word: 0.5 if word == "hang" else 60))
    reasons = {
        "crash": "want a file that a decoder survives, got SIGSEGV",
        "hang": "want to be done within 0.5 s, got no end",
        "memory": "want to get along with 4096 MB, got asked for more",
        "leave": "want a file that a decoder survives, got exit code 7",
    }
    want = [Lost(reasons[word]) if word in reasons else word.upper() for word in words]
    assert [results[k] for k in range(len(words))] == want
    with pytest.raises(RuntimeError, match="ValueError: oops"):
        list(each(obey, ["raise"], num_workers=1, seconds=lambda _: 60))
