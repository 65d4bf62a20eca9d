"""Kernel distance against sums by hand."""

import pytest
import torch

from pavdit.metrics import kernel_distance as module
from pavdit.metrics.kernel_distance import kernel_distance


def test_four_numbers_by_hand():
    # k(x, y) = (x y + 1)^3: k(0, 1) = 1, k(2, 3) = 343; across 1, 1, 27, 64.
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert kernel_distance(a, b) == pytest.approx(1 + 343 - 2 * 93 / 4)


def test_it_is_the_sum_over_pairs(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 3)
    a, b = torch.randn(7, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)

    def mean(x, y, skip):
        pairs = [(p, q) for i, p in enumerate(x) for j, q in enumerate(y) if not (skip and i == j)]
        return sum(float((p @ q / 4 + 1) ** 3) for p, q in pairs) / len(pairs)

    want = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert kernel_distance(a, b.numpy()) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("a", "b"), [((1, 3), (4, 3)), ((4, 3), (4, 2))])
def test_what_has_no_distance_is_refused(a, b):
    with pytest.raises(
        ValueError, match="^kernel_distance: want at least 2 features of one width in both, got"
    ):
        kernel_distance(torch.zeros(a), torch.zeros(b))
