"""Class prompts: two spellings, one row of a trained table, a message that helps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pavdit.text import ClassEncoder, to_bucket

NAMES = ("rain", "volcano", "a video of fire")


def test_two_spellings_of_a_class() -> None:
    text = ClassEncoder(NAMES, dim=6).encode(["volcano", "a video of volcano", "rain"])
    assert torch.equal(text.tokens[0], text.tokens[1])
    assert not torch.equal(text.tokens[0], text.tokens[2])


def test_a_name_with_the_prefix_in_it_is_itself() -> None:
    encoder = ClassEncoder(NAMES, dim=6)
    assert encoder.index("a video of fire") == encoder.index("a video of a video of fire") == 2


def test_shape_and_lengths_fill_the_smallest_bucket() -> None:
    text = ClassEncoder(NAMES, dim=6).encode(["rain"] * 4)
    assert text.tokens.shape == (4, 8, 6)
    tokens, mask = to_bucket(text, max_length=300)
    assert mask is None
    assert tokens.shape == (4, 8, 6)


def test_only_the_rows_asked_for_are_trained() -> None:
    encoder = ClassEncoder(NAMES, dim=6, tokens_per_class=3)
    encoder.encode(["volcano", "volcano"]).tokens.sum().backward()
    assert encoder.table.grad.sum((1, 2)).tolist() == [0, 36, 0]


def test_save_and_load(tmp_path: Path) -> None:
    encoder, other = ClassEncoder(NAMES, dim=6), ClassEncoder(NAMES, dim=6)
    save_file(encoder.state_dict(), tmp_path / "text.safetensors")
    other.load_state_dict(load_file(tmp_path / "text.safetensors"))
    assert torch.equal(other.encode(["rain"]).tokens, encoder.encode(["rain"]).tokens)


def test_unknown_prompt() -> None:
    with pytest.raises(
        ValueError, match='^prompt: want "<class>" or "a video of <class>" .* of cat, dog; got \'cow\'$'
    ):
        ClassEncoder(("cat", "dog"), dim=6).encode(["cat", "cow"])


def test_long_lists_are_cut_in_the_message() -> None:
    names = [f"c{i}" for i in range(30)]
    with pytest.raises(ValueError, match="of c0, c1, .*, c9, …; got 'x'$"):
        ClassEncoder(names, dim=6).encode(["x"])


@pytest.mark.parametrize("names", [(), ("rain", "rain")])
def test_names_are_checked(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="^ClassEncoder: want different class names, at least one, got"):
        ClassEncoder(names, dim=6)
