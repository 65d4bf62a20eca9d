"""Distances of features and scores of probabilities against MM-Diffusion, StyleGAN-V and ADM."""

import pytest

from pavdit.metrics.frechet import frechet_distance
from pavdit.metrics.kernel_distance import kernel_distance
from pavdit.metrics.probabilities import inception_score

TOLERANCE = 1e-6
"""Relative. The peers' own float64 forms differ by 6e-8 where features are few."""


@pytest.mark.filterwarnings("ignore:frechet_distance")
def test_frechet_and_kernel_distance(golden):
    features = golden("features.npz")
    for case, want in golden("frechet_kvd.json").items():
        a, b = features[f"{case}__a"], features[f"{case}__b"]
        got = frechet_distance(a, b)
        for peer in ("mmdiffusion_torch_float64", "styleganv_scipy_float64", "openai_adm_fid"):
            assert got == pytest.approx(want[peer], rel=TOLERANCE, abs=TOLERANCE), (case, peer)
        biased = frechet_distance(a, b, biased=True)
        assert biased == pytest.approx(want["styleganv_native_biased_cov"], rel=TOLERANCE, abs=TOLERANCE), (
            case
        )
        # The peer's kernel is computed in float32.
        kvd = want["kvd_mmdiffusion_sklearn_poly3"]
        assert kernel_distance(a, b) == pytest.approx(kvd, rel=TOLERANCE, abs=2e-6), case


def test_inception_score(golden):
    probabilities, want = golden("is_probs.npz")["p"], golden("inception_score.json")
    score, deviation = inception_score(probabilities)
    assert score == pytest.approx(want["mmdiffusion_calc_inception"], rel=TOLERANCE) and deviation == 0
    assert score == pytest.approx(want["openai_adm_formula_split5000"], rel=TOLERANCE)
    ten = inception_score(probabilities, splits=10)
    assert ten == pytest.approx(want["styleganv_formula_10_splits_mean_std"], rel=TOLERANCE)
