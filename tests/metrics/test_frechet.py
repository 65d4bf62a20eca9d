"""Fréchet distance where it is known in closed form."""

import warnings

import pytest
import torch
from numerics import assert_equation

from pavdit.metrics.frechet import Moments, frechet_distance


def cross(deviations: list[float], mean: float = 0.0) -> torch.Tensor:
    """``(2 D, D)`` features with this mean, and standard deviations along the axes (covariance over N)."""
    axes = torch.diag(torch.tensor(deviations, dtype=torch.float64)) * len(deviations) ** 0.5
    return torch.cat([axes, -axes]) + mean


def test_along_common_axes_means_and_deviations_differ_apart():
    a, b = cross([1.0, 2.0, 3.0]), cross([4.0, 2.0, 0.5], mean=1.0)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    want = 3 * 1.0**2 + (4 - 1) ** 2 + (0.5 - 3) ** 2
    assert frechet_distance(a @ turn, b @ turn, biased=True) == pytest.approx(want, rel=1e-12)


def test_two_dimensions_have_a_closed_form():
    # The eigenvalues of a 2 x 2 product are known by its trace and determinant, so is the sum of their roots.
    a, b = (Moments(torch.randn(50, 2, dtype=torch.float64) @ torch.randn(2, 2).double()) for _ in range(2))
    cov_a, cov_b = a.covariance(), b.covariance()
    product = cov_a @ cov_b
    root_trace = (product.trace() + 2 * product.det().sqrt()).sqrt()
    want = (a.mean - b.mean).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace
    assert frechet_distance(a, b) == pytest.approx(float(want), rel=1e-9)


def test_few_features_are_warned_of_and_right():
    # Neither set reaches into the other's plane: nothing is shared but the means.
    a, b = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    a[:, :2], b[:, 2:] = cross([1.0, 2.0]), cross([3.0, 1.0])
    with pytest.warns(
        UserWarning, match="^frechet_distance: want more features than their 4 dimensions, got 4:"
    ):
        got = frechet_distance(a, b, biased=True)
    assert got == pytest.approx(1 + 4 + 9 + 1, rel=1e-12)


@pytest.mark.filterwarnings("ignore:frechet_distance")
@pytest.mark.parametrize(("count", "width"), [(200, 16), (8, 32)])
def test_equal_sets_are_at_0(count, width):
    a = torch.randn(count, width, dtype=torch.float64) + 100
    assert frechet_distance(a, a[torch.randperm(count)]) < 1e-9


def test_enough_features_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(torch.randn(20, 4), torch.randn(30, 4))


def test_batches_of_any_size_have_the_moments_of_the_whole():
    features = torch.randn(100, 5, dtype=torch.float64) + 1e4
    moments = Moments()
    for batch in features.split([1, 40, 2, 57]):
        moments.add(batch.numpy())
    assert moments.count == 100
    assert_equation(moments.mean, features.mean(dim=0))
    centred = features - features.mean(dim=0)
    assert_equation(moments.covariance(), centred.T @ centred / 99)
    assert_equation(moments.covariance(biased=True), centred.T @ centred / 100)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.ones(3), torch.ones(3, 1), r"Moments: want features \(N,D\), got \(3,\)"),
        (torch.ones(3, 2), torch.ones(3, 1), "frechet_distance: want features of one width, got 2 and 1"),
        (torch.ones(1, 2), torch.ones(9, 2), "Moments: want at least 2 features for a covariance, got 1"),
        (torch.ones(0, 2), torch.ones(9, 2), r"Moments: want features \(N,D\), got \(0, 2\)"),
        (torch.tensor([[1.0], [float("inf")]]), torch.ones(9, 1), "Moments: want finite .* got inf in row 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:frechet_distance")
def test_what_has_no_distance_is_refused(a, b, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        frechet_distance(a, b)


def test_another_width_is_refused():
    moments = Moments(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"^Moments: want features \(B,3\), got \(1, 4\)"):
        moments.add(torch.ones(1, 4))
