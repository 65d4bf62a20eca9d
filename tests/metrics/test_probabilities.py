"""Inception score and divergence where they are known."""

import math

import pytest
import torch

from pavdit.metrics.probabilities import KL_FLOOR, inception_score, kl_divergence


def test_sure_and_even_scores_the_number_of_classes():
    assert inception_score(torch.eye(5).repeat(4, 1)) == pytest.approx((5, 0))


def test_one_answer_for_all_scores_1():
    assert inception_score(torch.tensor([[0.5, 0.25, 0.25]] * 6)) == pytest.approx((1, 0))


def test_runs_are_scored_alone():
    # Rows 0 to 2 are of one class each, rows 3 to 6 of one: runs of 3 and 4 rows score 3 and 1.
    classes = torch.eye(3)[[0, 1, 2, 1, 1, 1, 1]]
    assert inception_score(classes, splits=2) == pytest.approx((2, 1))


def test_divergence_of_a_sure_answer_from_a_torn_one():
    reference, generated = torch.eye(2).repeat(3, 1), torch.full((6, 2), 0.5)
    assert kl_divergence(reference, generated) == pytest.approx(math.log(2), abs=4 * KL_FLOOR)
    assert kl_divergence(reference, reference) == pytest.approx(0, abs=2 * KL_FLOOR)
    assert kl_divergence(reference, reference.flip(0)) == pytest.approx(-math.log(KL_FLOOR))


@pytest.mark.parametrize("rows", [[[0.5, 0.6]], [[1.5, -0.5]]])
def test_what_is_no_probability_is_refused(rows):
    with pytest.raises(ValueError, match="^inception_score: want probabilities"):
        inception_score(torch.tensor(rows))


def test_runs_without_rows_are_refused():
    with pytest.raises(ValueError, match="^inception_score: want 1 to 2 splits of 2 rows, got 3"):
        inception_score(torch.eye(2), splits=3)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"^kl_divergence: want one shape, got \(2, 2\) and \(4, 2\)"):
        kl_divergence(torch.eye(2), torch.eye(2).repeat(2, 1))
