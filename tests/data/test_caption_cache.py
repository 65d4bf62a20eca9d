"""Captions are encoded once, by a model that is not loaded where nothing is missing."""

import copy

import pytest
import torch

from pavdit.config import TextConfig
from pavdit.data.caption_cache import CaptionTable
from pavdit.text import EncoderFiles

CAPTIONS = ["a dog barks", "rain", "", "video of wood in the rain"]
CPU = torch.device("cpu")


def fill(table, captions):
    table.fill(captions, CPU, say=str, progress=lambda done, total: None)


def test_a_table_says_what_the_model_says(tiny_t5, tmp_path, monkeypatch):
    files = EncoderFiles.find(TextConfig(encoder="t5", path=tiny_t5))
    want = files.load(CPU).encode(CAPTIONS)
    fill(CaptionTable(tmp_path, files), CAPTIONS)
    monkeypatch.setattr(EncoderFiles, "load", None)
    table = CaptionTable(tmp_path, files)
    fill(table, CAPTIONS[::-1])
    got = table.encode(CAPTIONS)
    assert got.lengths == want.lengths and torch.equal(got.tokens, want.tokens)
    assert copy.deepcopy(table) is table and table.dim == files.dim
    with pytest.raises(ValueError, match="^prompt: want a caption of the training set, got 'snow'$"):
        table.encode(["snow"])
