"""The patch discriminators: what they see, of any size, each clip for itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pavdit.clip import ClipSpec
from pavdit.config import ModelConfig, tiny, xl
from pavdit.mdsa import Discriminators
from pavdit.mdsa.discriminator import PatchDiscriminator


def judge(config: ModelConfig, video: Tensor, audio: Tensor, frames: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: j.logits for name, j in Discriminators(config)(video, audio, frames).items()}


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 32, 32), torch.randn(2, 1, 8, 64, 32)


def test_the_paper_s_size_is_pvdm_s() -> None:
    with torch.device("meta"):
        parts = Discriminators(xl())
    convs = [tuple(conv.weight.shape[:2]) for conv in (*parts.clip.convs, parts.clip.to_logit)]
    assert convs == [(64, 3), (128, 64), (256, 128), (512, 256), (1, 512)]
    assert [conv.stride for conv in parts.frame.convs] == [(2, 2)] * 3 + [(1, 1)]


def test_each_looks_at_its_own_part(clips: tuple[Tensor, Tensor]) -> None:
    video, audio = clips
    frames = torch.tensor([0, 5])
    before = judge(tiny(), video, audio, frames)
    other_frame = video.clone()
    other_frame[:, :, 3] += 1
    after = judge(tiny(), other_frame, audio, frames)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"clip"}
    other_frame[1, :, 5] += 1
    after = judge(tiny(), other_frame, audio + 1, frames)
    assert torch.equal(before["frame"][0], after["frame"][0])
    assert not torch.equal(before["frame"][1], after["frame"][1])
    assert not torch.equal(before["spectrogram"], after["spectrogram"])


def test_the_spectrogram_is_the_mel_images_side_by_side(clips: tuple[Tensor, Tensor]) -> None:
    video, audio = clips
    torch.manual_seed(0)
    parts = Discriminators(tiny())
    together = parts.spectrogram(torch.cat(list(audio.unbind(2)), dim=-1)).logits
    assert torch.equal(parts(video, audio, torch.tensor([0, 0]))["spectrogram"].logits, together)


def test_a_clip_is_judged_for_itself(clips: tuple[Tensor, Tensor]) -> None:
    video, audio = clips
    frames = torch.tensor([2, 6])
    together = judge(tiny(), video, audio, frames)
    video[1], audio[1] = torch.nan, torch.nan
    beside_nothing = judge(tiny(), video, audio, frames)
    for name, logits in together.items():
        assert torch.equal(logits[0], beside_nothing[name][0]), name


@pytest.mark.parametrize("clip", [ClipSpec(4, 16, 16), ClipSpec(12, 32, 64)], ids=["small", "wide"])
def test_every_size_of_clip_is_judged(clip: ClipSpec) -> None:
    config = ModelConfig.model_validate(tiny().model_dump() | {"clip": clip})
    video = torch.randn(1, 3, clip.num_frames, clip.height, clip.width)
    audio = torch.randn(1, 1, clip.num_frames, config.mel.n_mels, clip.columns_per_frame)
    for logits in judge(config, video, audio, torch.tensor([0])).values():
        assert logits.shape[:2] == (1, 1) and logits.isfinite().all()


def test_the_last_features_are_those_below_the_logits() -> None:
    part = PatchDiscriminator(2, 3, 8, 2)
    judged = part(torch.randn(1, 3, 16, 16))
    assert [f.shape[1] for f in judged.features] == [8, 16, 32]
    assert torch.equal(part.to_logit(judged.features[-1]), judged.logits)
