"""P and its layouts: nothing is lost, nothing overlaps, padding is known."""

import pytest
import torch

from pavdit.latents import PlaneLayout, Planes

GRIDS = {
    "tiny": ((8, 8, 8), "six"),
    "small": ((16, 16, 16), "six"),
    "xl": ((16, 32, 32), "concat4"),
    "twelve": ((12, 16, 16), "cut"),
    "short": ((4, 16, 16), "cut"),
    "long": ((68, 32, 32), "cut"),
    "prime": ((20, 6, 6), "fold"),
    "landscape": ((16, 8, 16), "fold"),
    "portrait": ((16, 16, 8), "fold"),
}


def planes(grid, seed, batch=2, channels=4):
    generator = torch.Generator().manual_seed(seed)
    t, h, w = grid
    return Planes(
        *(torch.randn(batch, channels, *edges, generator=generator) for edges in ((h, w), (t, w), (t, h)))
    )


@pytest.mark.parametrize(("grid", "name"), GRIDS.values(), ids=GRIDS)
def test_auto_chooses_the_layout_of_the_design(grid, name):
    assert PlaneLayout.choose(grid).name == name


@pytest.mark.parametrize(
    ("grid", "kind"),
    [(g, "auto") for g, _ in GRIDS.values()]
    + [(g, "fold") for g, _ in GRIDS.values()]
    + [((16, 32, 32), "six"), ((4, 16, 16), "six"), ((8, 8, 4), "six")],
)
def test_unstack_inverts_stack_to_the_bit(grid, kind):
    layout = PlaneLayout.choose(grid, kind)
    video, audio = planes(grid, 0), planes(grid, 1)
    latent = layout.stack(video, audio)
    assert latent.shape == (2, 4, layout.num_frames, layout.rows, layout.columns)
    for got, want in zip(layout.unstack(latent), (video, audio), strict=True):
        assert all(torch.equal(getattr(got, n), getattr(want, n)) for n in ("hw", "tw", "th"))


@pytest.mark.parametrize("grid", [g for g, _ in GRIDS.values()], ids=GRIDS)
def test_cells_say_what_stack_puts_where(grid):
    layout = PlaneLayout.choose(grid)
    video, audio = planes(grid, 0), planes(grid, 1)
    latent = layout.stack(video, audio)
    by_number = (video.hw, video.tw, video.th, audio.hw, audio.tw, audio.th)
    plane, row, column = layout.cells()
    valid = layout.valid()
    seen = set()
    for g in range(layout.num_frames):
        for r in range(layout.rows):
            for c in range(layout.columns):
                if valid is not None and not valid[g, r, c]:
                    assert not latent[:, :, g, r, c].any()
                    continue
                cell = (int(plane[g, r, c]), int(row[g, r, c]), int(column[g, r, c]))
                assert cell not in seen
                seen.add(cell)
                assert torch.equal(latent[:, :, g, r, c], by_number[cell[0]][:, :, cell[1], cell[2]])
    t, h, w = grid
    assert len(seen) == 2 * (h * w + t * w + t * h)


def test_layouts_without_padding_have_no_mask():
    assert PlaneLayout.choose((16, 32, 32), "concat4").valid() is None
    assert PlaneLayout.choose((16, 16, 16), "six").valid() is None
    assert PlaneLayout.choose((64, 32, 32)).name == "fold"
    assert all(PlaneLayout.choose((t, 32, 32)).valid() is None for t in range(4, 76, 4))
    assert str(PlaneLayout.choose((68, 32, 32))) == "cut, 8 frames of 42 x 32, nothing padded"
    assert str(PlaneLayout.choose((68, 32, 32), "fold")) == "fold, 12 frames of 32 x 32, 12% padded"


def test_concat4_is_a_third_smaller_than_six_at_256():
    six, concat4 = (PlaneLayout.choose((16, 32, 32), kind) for kind in ("six", "concat4"))
    assert (six.num_frames, concat4.num_frames) == (6, 4)
    assert six.valid() is not None


def test_a_2_by_2_patch_never_straddles_two_planes():
    for grid, _ in GRIDS.values():
        layout = PlaneLayout.choose(grid)
        patches = layout.cells()[0].unfold(1, 2, 2).unfold(2, 2, 2).flatten(-2)
        valid = layout.valid()
        if valid is not None:
            blocks = valid.unfold(1, 2, 2).unfold(2, 2, 2).flatten(-2)
            assert torch.equal(blocks.all(-1), blocks.any(-1))
            patches = patches[blocks.all(-1)]
        assert (patches == patches[..., :1]).all()


def test_frames_of_a_stream():
    layout = PlaneLayout.choose((16, 32, 32))
    assert layout.frames_of("video").tolist() == [True, True, False, False]
    assert layout.frames_of("audio").tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("grid", "kind", "message"),
    [
        ((6, 8, 8), "auto", "T a multiple of 4"),
        ((8, 7, 8), "auto", "even H', W'"),
        ((16, 8, 8), "six", "T <= H' for 'six'"),
        ((16, 16, 16), "concat4", "H' = W' = 2T"),
        ((68, 16, 16), "cut", "an even R from H' to 2H' that divides H' \\+ 2T for 'cut'"),
        ((16, 8, 16), "cut", "want H' = W' and"),
        ((16, 16, 16), "five", "got 'five'"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(grid, kind, message):
    with pytest.raises(ValueError, match=message):
        PlaneLayout.choose(grid, kind)


def test_planes_of_another_grid_are_refused():
    layout = PlaneLayout.choose((8, 8, 8))
    with pytest.raises(ValueError, match="want audio planes"):
        layout.stack(planes((8, 8, 8), 0), planes((16, 8, 8), 1))


def test_streams_of_another_batch_are_refused():
    layout = PlaneLayout.choose((8, 8, 8))
    with pytest.raises(ValueError, match="one batch"):
        layout.stack(planes((8, 8, 8), 0), planes((8, 8, 8), 1, batch=3))


def test_a_latent_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"want P \(B,C,6,8,8\)"):
        PlaneLayout.choose((8, 8, 8)).unstack(torch.zeros(1, 4, 4, 8, 8))
