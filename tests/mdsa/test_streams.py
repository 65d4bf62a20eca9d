"""Stream dropout: each case's switches, and how often it is drawn."""

from __future__ import annotations

import pytest
import torch

from pavdit.config import StreamDropoutConfig
from pavdit.mdsa.streams import StreamMasks, draw_stream_masks

# has video, has audio, encode v<-a, encode a<-v, decode v<-a, decode a<-v
BOTH = (True, True, True, True, True, True)
VIDEO_ALONE = (True, False, False, False, False, False)
AUDIO_ALONE = (False, True, False, False, False, False)
VIDEO_SINGLE = (True, True, False, True, True, True)
AUDIO_SINGLE = (True, True, True, False, True, True)


def rows(masks: StreamMasks) -> list[tuple[bool, ...]]:
    columns = [getattr(masks, name).tolist() for name in masks.__dataclass_fields__]
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize(
    ("config", "cases"),
    [
        (StreamDropoutConfig(video_alone=0, audio_alone=0, crossed=0), {BOTH}),
        (StreamDropoutConfig(video_alone=1, audio_alone=0, crossed=0), {VIDEO_ALONE}),
        (StreamDropoutConfig(video_alone=0, audio_alone=1, crossed=0), {AUDIO_ALONE}),
        (StreamDropoutConfig(video_alone=0, audio_alone=0, crossed=1), {VIDEO_SINGLE, AUDIO_SINGLE}),
    ],
    ids=["joint", "video", "audio", "crossed"],
)
def test_cases(config: StreamDropoutConfig, cases: set[tuple[bool, ...]]) -> None:
    assert set(rows(draw_stream_masks(64, config, torch.Generator().manual_seed(0)))) == cases


def test_shares_are_the_configured_probabilities() -> None:
    drawn = rows(draw_stream_masks(20000, StreamDropoutConfig(), torch.Generator().manual_seed(0)))
    shares = {case: drawn.count(case) / len(drawn) for case in set(drawn)}
    want = {BOTH: 0.7, VIDEO_ALONE: 0.1, AUDIO_ALONE: 0.1, VIDEO_SINGLE: 0.05, AUDIO_SINGLE: 0.05}
    assert shares.keys() == want.keys()
    assert all(abs(shares[case] - share) < 0.012 for case, share in want.items())  # above 3 standard errors


def test_draw_follows_the_generator() -> None:
    first, second = (
        rows(draw_stream_masks(64, StreamDropoutConfig(), torch.Generator().manual_seed(7))) for _ in range(2)
    )
    assert first == second
