"""The recogniser says of true clips what their captions say, and notices when they are of something else."""

import numpy as np
import pytest

from pavdit.clip import ClipSpec
from pavdit.data.bounce import MATERIALS, BounceClips
from pavdit.data.bounce.recognise import PITCHES_HZ, Seen, heard, material_of_pitch, seen
from pavdit.data.bounce.scene import SHAPES
from pavdit.metrics.partials import strongest_partials

SPEC = ClipSpec(num_frames=16, height=64, width=64)
CLIPS = BounceClips(60, SPEC, seed=21)


def test_true_clips_are_recognised() -> None:
    right_pitch = 0
    for i in range(len(CLIPS)):
        clip, bodies = CLIPS[i], CLIPS.scene(i).bodies
        wanted = [Seen(body.material_name, body.action) for body in bodies]
        assert sorted(seen(clip.frames.numpy()), key=str) == sorted(wanted, key=str), clip.caption
        names = heard(clip.wave.numpy(), SPEC.sample_rate)[: len(bodies)]
        right_pitch += sorted(names) == sorted(body.material_name for body in bodies)
    assert right_pitch >= 0.93 * len(CLIPS)
    assert {body.action for i in range(len(CLIPS)) for body in CLIPS.scene(i).bodies} == set(SHAPES)


def test_other_colours_are_other_materials() -> None:
    [one] = [i for i in range(len(CLIPS)) if CLIPS.scene(i).label == "metal_bounce"][:1]
    frames = CLIPS[one].frames.numpy()
    assert seen(frames) == (Seen("metal", "bounce"),)
    assert seen(frames[:, [2, 1, 0]]) != (Seen("metal", "bounce"),)  # blue turned red
    assert seen(np.full_like(frames, 80)) == ()
    [still] = seen(np.repeat(frames[:1], 16, axis=0))
    assert still == Seen("metal", "")


def test_a_dim_lamp_stands_in_noise_as_a_decoder_makes_it() -> None:
    rng = np.random.default_rng(0)
    lamps = [i for i in range(len(CLIPS)) if CLIPS.scene(i).label.endswith("_flash")]
    assert len(lamps) >= 5
    for i in lamps:
        patches = rng.normal(0, 5, (16, 3, 16, 16)).repeat(4, axis=2).repeat(4, axis=3)
        noisy = CLIPS[i].frames.numpy() + patches + rng.normal(0, 5, patches.shape)
        [lamp] = seen(noisy.clip(0, 255).round().astype(np.uint8))
        assert lamp.action == "flash", CLIPS.scene(i).caption


@pytest.mark.parametrize("name", MATERIALS)
def test_a_pitch_is_heard_beside_what_rings(name: str) -> None:
    t = np.arange(16000) / 16000
    low, high = PITCHES_HZ[name]
    for hz in (low * 1.02, high * 0.98):
        since = np.maximum(t - 0.5, 0)
        wave = np.where(t >= 0.5, np.exp(-since / 0.1) * np.sin(2 * np.pi * hz * since), 0)
        wave += np.sin(2 * np.pi * 1000 * t)  # steady, and louder
        [[found, power]] = strongest_partials(wave, 16000, np.array([0.5]))
        assert found == pytest.approx(hz, rel=0.03) and power > 0
        assert material_of_pitch(found) == name


def test_no_onset_has_no_pitch() -> None:
    assert strongest_partials(np.zeros(16000), 16000, np.zeros(0)).shape == (0, 2)
    assert heard(np.zeros(16000), 16000) == ()
