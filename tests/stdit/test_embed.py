"""Patches, positions and the sinusoid, each against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import assert_equation

from pavdit.latents import PlaneLayout
from pavdit.stdit.embed import CaptionProjection, LatentEmbedder, patchify, sinusoid, unpatchify


def test_sinusoid_is_its_formula() -> None:
    values = torch.tensor([0.0, 1.0, 250.5, 1000.0])
    want = torch.empty(4, 8)
    for n, value in enumerate(values.tolist()):
        for i in range(4):
            angle = value / 10000 ** (2 * i / 8)
            want[n, i], want[n, 4 + i] = math.cos(angle), math.sin(angle)
    assert torch.allclose(sinusoid(values, 8), want, atol=2e-4)  # float32 angles near 1000: 6e-5 each


def test_patchify_round_trip() -> None:
    latent = torch.randn(2, 4, 6, 8, 12)
    patches = patchify(latent)
    assert patches.shape == (2, 6, 24, 16)
    assert torch.equal(unpatchify(patches, rows=8), latent)


def test_a_patch_is_two_by_two_cells_of_one_frame() -> None:
    latent = torch.randn(1, 3, 2, 4, 6)
    row, column = 1, 2
    want = latent[0, :, 1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()
    assert torch.equal(patchify(latent)[0, 1, row * 3 + column], want)


def test_positions_follow_the_planes(layout: PlaneLayout) -> None:
    """Every token's table entry is that of its cell's own plane, row and column."""
    embed = LatentEmbedder(layout, channels=4, width=8)
    positions = embed.positions()
    cells, valid = layout.cells(), layout.valid()
    columns = layout.columns // 2
    for frame in range(layout.num_frames):
        for token in range(positions.shape[1]):
            row, column = divmod(token, columns)
            if valid is not None and not valid[frame, 2 * row, 2 * column]:
                continue
            plane, plane_row, plane_column = cells[:, frame, 2 * row, 2 * column]
            sincos = torch.cat([sinusoid(plane_row // 2, 4), sinusoid(plane_column // 2, 4)])
            assert_equation(positions[frame, token], embed.plane_embedding.weight[plane] + sincos)


def test_same_place_in_two_planes_differs() -> None:
    embed = LatentEmbedder(PlaneLayout.choose((8, 8, 8), "six"), channels=4, width=8)
    torch.nn.init.normal_(embed.plane_embedding.weight)
    first_tokens = embed.positions()[:, 0]  # (6, D): row 0, column 0 of the six planes
    assert torch.pdist(first_tokens).min() > 0


def test_padding_marks_tokens(padded_layout: PlaneLayout) -> None:
    embed = LatentEmbedder(padded_layout, channels=4, width=8)
    mask = padded_layout.valid()
    assert mask is not None
    assert embed.token_valid is not None
    assert int(embed.token_valid.sum()) * 4 == int(mask.sum())


def test_null_caption_is_fixed_and_saved() -> None:
    caption = CaptionProjection(6, 8, max_length=10)
    assert "null_caption" in caption.state_dict()
    assert "null_caption" not in dict(caption.named_parameters())


def test_dropped_caption_is_the_null_caption() -> None:
    caption = CaptionProjection(6, 8, max_length=10)
    text, null = torch.randn(2, 4, 6), caption.null_caption[:4].expand(1, -1, -1)
    dropped = caption(text, torch.tensor([False, True]))
    assert_equation(dropped, torch.cat([caption(text[:1], None), caption(null, None)]))


def test_a_layout_that_splits_a_patch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = PlaneLayout.choose((4, 8, 8), "concat4")
    shifted = layout.cells().roll(1, dims=2)  # planes now begin at odd rows
    monkeypatch.setattr(PlaneLayout, "cells", lambda _: shifted)
    with pytest.raises(ValueError, match="stdit: want a layout whose 2 x 2 patches lie in one plane each"):
        LatentEmbedder(layout, channels=4, width=8)
