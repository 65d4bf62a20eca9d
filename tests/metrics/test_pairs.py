"""Right pairs against wrong ones."""

import pytest
import torch

from pavdit.metrics.pairs import pair_distances, right_against_wrong


def test_distances_are_root_mean_squares():
    made, real = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    got = pair_distances(made, real)
    for i in range(4):
        for j in range(4):
            assert got[i, j].item() == pytest.approx(
                (made[i] - real[j]).square().mean().sqrt().item(), abs=1e-6
            )


def test_what_belongs_together_is_nearer():
    real = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    near = right_against_wrong(pair_distances(real + 0.1, real))
    assert near["right"] == pytest.approx(0.1, abs=1e-5) and near["wrong"] > 1 and near["rank"] == 1.0
    shifted = right_against_wrong(pair_distances(real.roll(1, 0), real))
    assert shifted["rank"] < 0.9 and shifted["right"] > 1


def test_one_answer_for_all_is_chance():
    distances = pair_distances(torch.zeros(5, 3), torch.ones(5, 3))
    assert right_against_wrong(distances) == {"right": 1.0, "wrong": 1.0, "rank": 0.5}


@pytest.mark.parametrize(("made", "real"), [((1, 3), (1, 3)), ((2, 3), (2, 4))])
def test_what_cannot_be_paired_is_refused(made, real):
    with pytest.raises(ValueError, match="^pair_distances: want made and real of one shape, at least 2, got"):
        pair_distances(torch.zeros(made), torch.zeros(real))
