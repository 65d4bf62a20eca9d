"""Intervals: draws of all clips are the number itself, of repeated clips that of the repeated set."""

import numpy as np
import pytest
import torch

from pavdit.evaluation.intervals import bootstrap, frechet_draw, kernel_draw, ratio_draw
from pavdit.metrics.frechet import frechet_distance
from pavdit.metrics.kernel_distance import kernel_distance


def features(n, width, seed, pieces=1):
    return torch.randn(n, pieces, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ones(n):
    return torch.ones(n, dtype=torch.float64)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("n", "width"), [(6, 20), (60, 5)], ids=["few", "many"])
@pytest.mark.filterwarnings("ignore:frechet_distance")
def test_frechet_of_weights_is_that_of_repeated_clips(n, width, biased):
    a, b = features(n, width, 0, pieces=2), features(n + 3, width, 1, pieces=2) + 0.3
    draw = frechet_draw(a, b, biased=biased)
    weights = torch.arange(n, dtype=torch.float64) % 3
    for w, rows in ((ones(n), a), (weights, a.repeat_interleave(weights.long(), dim=0))):
        want = frechet_distance(rows.flatten(0, 1), b.flatten(0, 1), biased=biased)
        assert draw(w, ones(n + 3)) == pytest.approx(want, rel=1e-9)


def test_kernel_of_all_clips_is_the_kernel_distance_and_repeated_clips_are_no_pair():
    a, b = features(9, 4, 0)[:, 0], features(7, 4, 1)[:, 0] + 0.5
    draw = kernel_draw(a, b)
    assert draw(ones(9), ones(7)) == pytest.approx(kernel_distance(a, b), rel=1e-12)
    assert draw(2 * ones(9), ones(7)) == pytest.approx(kernel_distance(a, b), rel=1e-12)


def test_the_interval_of_a_mean_is_as_wide_as_its_error():
    values = torch.from_numpy(np.random.default_rng(0).normal(5, 2, 400))
    draw = ratio_draw(values, ones(400))
    interval = bootstrap(float(values.mean()), draw, (400, 0), 2000, 0)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * float(values.std()) / 20, rel=0.07)
    assert interval == bootstrap(float(values.mean()), draw, (400, 0), 2000, 0)


def test_frechet_draws_lie_around_the_number_at_this_count():
    a, b = features(40, 30, 0), features(40, 30, 1)
    draw = frechet_draw(a, b, biased=False)
    value = draw(ones(40), ones(40))
    interval = bootstrap(value, draw, (40, 40), 100, 0, moved=True)
    assert interval.low < value < interval.high


def test_no_draws_no_interval():
    assert np.isnan(bootstrap(1.0, ratio_draw(ones(3), ones(3)), (3, 0), 0, 0).low)
