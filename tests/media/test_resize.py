"""Pictures of any shape become H x W by one of two rules."""

import numpy as np
import pytest
import torch

from pavdit.media.resize import resize_picture, turn

GREEN, RED = (0, 255, 0), (255, 0, 0)


def framed(height: int, width: int) -> np.ndarray:
    """A red centre square of the shorter side; green beyond it."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = GREEN
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    picture[top : top + side, left : left + side] = RED
    return picture


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (64, 64), (20, 40), (33, 70)])
def test_crop_takes_the_centre(height: int, width: int) -> None:
    out = resize_picture(framed(height, width), 32, 32, "crop")
    assert out.shape == (3, 32, 32) and out.dtype == torch.uint8
    # Where (height - side) is odd, the centre is half a pixel off at most.
    assert (out[0, :, 1:-1] > 250).all() and (out[1, 1:-1, 1:-1] < 5).all()


def test_crop_follows_the_target_shape_and_the_pixel_shape() -> None:
    ramp = np.repeat(np.arange(128, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)  # 64 x 128
    wide = resize_picture(ramp, 32, 64, "crop")
    assert int(wide[0, 0, 0]) <= 2 and int(wide[0, 0, -1]) >= 125
    # Pixels twice as wide as high: the picture is 4:1 on the display, a square takes its middle quarter.
    square = resize_picture(ramp, 32, 32, "crop", pixel_aspect=2.0)
    assert abs(int(square[0, 0, 0]) - 48) <= 1 and abs(int(square[0, 0, -1]) - 79) <= 1


def test_crop_is_antialiased() -> None:
    noise = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (256, 256, 3))
    out = resize_picture(noise, 32, 32, "crop").float()
    assert out.std() < 16  # each pixel is the mean of 64 or more; of 4 it would be 64


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [((48, 96), (8, 24), (0, 32)), ((96, 48), (0, 32), (8, 24)), ((224, 298), (4, 28), (0, 32))],
)
def test_mmdiffusion_keeps_the_whole_picture_on_black(
    shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    white = np.full((*shape, 3), 255, np.uint8)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[slice(*rows), slice(*columns)] = True
    out = resize_picture(white, 32, 32, "mmdiffusion")
    assert (out[:, inside] == 255).all()
    assert (out[:, ~inside] == 0).all()


def test_turn_is_counterclockwise() -> None:
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)
    assert turn(picture, 1)[..., 0].tolist() == [[2, 5], [1, 4], [0, 3]]
    assert turn(picture, -1)[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]


def test_the_antialiased_form_is_smooth_and_lies_where_the_other_does() -> None:
    noise = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (128, 256, 3))
    sharp, smooth = (
        resize_picture(noise, 32, 32, rule).float() for rule in ("mmdiffusion", "mmdiffusion-antialiased")
    )
    assert (sharp[:, :8] == 0).all() and (smooth[:, :8] == 0).all() and (smooth[:, 8:24] > 0).all()
    assert smooth[:, 8:24].std() < 0.5 * sharp[:, 8:24].std()


@pytest.mark.parametrize(("height", "width"), [(48, 96), (97, 48)])
def test_pvdm_takes_the_centre_square_without_antialiasing(height: int, width: int) -> None:
    out = resize_picture(framed(height, width), 24, 24, "pvdm")
    assert (out[0] == 255).all() and (out[1] == 0).all()
    stripes = np.tile(np.array([0, 0, 200, 200], np.uint8)[:, None, None], (16, 64, 3))  # (64, 64, 3)
    # Between pixels 4k + 1 and 4k + 2 of 4: their mean, which an antialiasing filter would not single out.
    assert (resize_picture(stripes, 16, 16, "pvdm") == 100).all()
    spikes = np.tile(np.array([0, 0, 0, 200], np.uint8)[:, None, None], (16, 64, 3))
    assert (resize_picture(spikes, 16, 16, "pvdm") == 0).all()
