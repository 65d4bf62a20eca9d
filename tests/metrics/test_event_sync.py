"""Event sync: sees true clips as in step, a shift with its sign, and strangers as strangers."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from benchmarks.sync_floor import shifted
from pavdit.audio.invert import invert_mel
from pavdit.audio.mel import mel_images
from pavdit.clip import ClipSpec
from pavdit.config import MelConfig
from pavdit.data.bounce import BounceClips
from pavdit.metrics.event_sync import Detected, detect, event_sync, floor, match_events, score, scores_of
from pavdit.metrics.onsets import sound_onsets
from pavdit.metrics.picture_events import picture_events

SPEC = ClipSpec(num_frames=16, height=64, width=64)
CLIPS = [BounceClips(40, SPEC, seed=8)[i] for i in range(40)]
TRUTH = [np.array([event.time_seconds for event in clip.events]) for clip in CLIPS]
DETECTED = [detect(clip) for clip in CLIPS]


@pytest.mark.parametrize("seed", range(3))
def test_matching_is_the_optimal_assignment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        a, b = (np.sort(rng.uniform(0, 1.6, rng.integers(0, 8))) for _ in range(2))
        pairs = match_events(a, b)
        distance = np.abs(a[:, None] - b)
        cost = np.where(distance <= 0.2, distance, 1e3)  # more pairs first, then nearer ones
        best = [(i, j) for i, j in zip(*linear_sum_assignment(cost), strict=True) if distance[i, j] <= 0.2]
        assert len(pairs) == len(best) == len({i for i, _ in pairs}) == len({j for _, j in pairs})
        total = sum(distance[i, j] for i, j in pairs)
        assert total == pytest.approx(sum(distance[i, j] for i, j in best))


def test_scores_are_what_they_say() -> None:
    scores = score(
        [np.array([0.1, 0.5]), np.array([]), np.array([1.0])],
        [np.array([0.09]), np.array([0.3]), np.array([1.03])],
    )
    assert (scores.pairs, scores.found, scores.wanted, scores.clips) == (2, 3, 3, 3)
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((2 / 3,) * 3)
    assert scores.mean_offset_ms == pytest.approx(20) and scores.signed_offset_ms == pytest.approx(-10)
    assert scores.coverage == pytest.approx(2 / 3)
    nothing = score([np.array([])], [np.array([])])
    assert np.isnan(nothing.f1) and np.isnan(nothing.mean_offset_ms) and nothing.coverage == 0


def test_the_detectors_find_the_true_events() -> None:
    own = floor(DETECTED, TRUTH)
    assert own["sound"].recall > 0.97 and own["sound"].precision > 0.97
    assert own["sound"].mean_offset_ms < 3
    assert own["picture"].f1 > 0.9 and abs(own["picture"].signed_offset_ms) < 5
    assert scores_of(DETECTED)["pairs"].f1 > 0.9


def test_a_shift_is_seen_with_its_sign_and_strangers_are_worse() -> None:
    scores = event_sync(CLIPS)
    own = scores["pairs"]
    for shift_ms in (-50, 50):
        moved = [
            Detected(sound_onsets(shifted(clip.wave.numpy(), 16 * shift_ms), 16000), d.picture)
            for clip, d in zip(CLIPS, DETECTED, strict=True)
        ]
        seen = scores_of(moved)["pairs"].signed_offset_ms - own.signed_offset_ms
        assert seen == pytest.approx(shift_ms, abs=10)
    assert scores["shuffled"].f1 < own.f1 - 0.3
    assert scores["shuffled"].mean_offset_ms > own.mean_offset_ms + 40


def test_onsets_come_back_through_mel_images() -> None:
    mel = MelConfig(n_mels=128)
    waves = torch.stack([clip.wave for clip in CLIPS[:8]])
    again = invert_mel(mel_images(waves, SPEC, mel), SPEC, mel, num_iterations=12).numpy()
    scores = score([sound_onsets(wave, 16000) for wave in again], TRUTH[:8])
    assert scores.recall > 0.95 and scores.precision > 0.9
    assert scores.mean_offset_ms < 5


def test_events_are_found_in_blurred_and_noisy_pictures() -> None:
    rng = np.random.default_rng(0)
    found = []
    for clip in CLIPS:
        blurred = torch.nn.functional.avg_pool2d(
            clip.frames.float(), 3, 1, 1, count_include_pad=False
        ).numpy()
        noisy = blurred + rng.normal(0, 6, blurred.shape)
        found.append(picture_events(noisy.clip(0, 255).round().astype(np.uint8), 10.0))
    scores = score(found, TRUTH)
    assert scores.f1 > 0.85 and scores.mean_offset_ms < 15


def test_silence_and_grey_pictures_have_no_events() -> None:
    assert len(sound_onsets(np.zeros(16000), 16000)) == 0
    assert len(picture_events(np.full((8, 3, 32, 32), 90, np.uint8), 10.0)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match_events(np.array([1.0, 0.5]), np.array([])), "match_events: want ascending times"),
        (lambda: score([np.array([])], []), "score: want as many clips of both, got 1 and 0"),
        (lambda: sound_onsets(np.array([np.nan, 1.0]), 16000), r"sound_onsets: want a finite wave \(S,\)"),
        (
            lambda: picture_events(np.zeros((2, 3, 8, 8), np.uint8), 10.0),
            r"picture_events: want frames .* T >= 4",
        ),
    ],
)
def test_wrong_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
