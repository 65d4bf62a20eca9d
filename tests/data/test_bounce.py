"""The procedural set: events obey the physics, and picture and sound obey the events."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch

from pavdit.clip import Clip, ClipSpec
from pavdit.data.bounce import CLASS_NAMES, MATERIALS, BounceClips
from pavdit.data.bounce.picture import SHUTTER, render_frames
from pavdit.data.bounce.scene import (
    FLOOR_HEIGHT,
    MIN_EVENT_SPACING_SECONDS,
    RADII,
    Bounce,
    Clock,
    Flash,
    Wall,
)
from pavdit.data.bounce.script import Scene
from pavdit.data.bounce.sound import PEAK, render_wave

SPEC = ClipSpec(num_frames=16, height=64, width=64)
TINY = ClipSpec(num_frames=8, height=32, width=32)
CLIPS = BounceClips(300, SPEC, seed=1)


def scenes_of(kind: type) -> list[Scene]:
    found = [scene for scene in map(CLIPS.scene, range(len(CLIPS))) if isinstance(scene.action, kind)]
    assert len(found) > 40
    return found


def slope(scene: Scene, t: float, side: int, axis: int, step: float = 1e-6) -> float:
    """Velocity just before (side -1) or after (+1) the time t."""
    near = scene.action.state(np.array([t + side * 1e-9, t + side * (1e-9 + step)]))[axis]
    return float(side * (near[1] - near[0]) / step)


def test_a_bounce_keeps_the_energy_of_its_fall() -> None:
    for scene in scenes_of(Bounce):
        ball, events = scene.action, scene.action.events()
        speed = np.sqrt(2 * ball.gravity * ball.apex)  # potential energy at the apex = kinetic at the floor
        for event in events:
            x, y, _ = scene.action.state(np.array([event.time_seconds]))
            assert y[0] == pytest.approx(FLOOR_HEIGHT + scene.radius, abs=1e-9)
            assert slope(scene, event.time_seconds, -1, 1) == pytest.approx(-speed, rel=1e-3)
            after = slope(scene, event.time_seconds, +1, 1)
            if event is events[-1] and after < 1e-3:
                assert 2 * speed * ball.restitution / ball.gravity < MIN_EVENT_SPACING_SECONDS  # at rest
                break
            speed *= ball.restitution
            assert after == pytest.approx(speed, rel=1e-3)


def test_the_flight_between_impacts_is_a_free_fall() -> None:
    for scene in scenes_of(Bounce):
        edges = [0.0, *(event.time_seconds for event in scene.action.events()), 1.6]
        for start, end in zip(edges, edges[1:], strict=False):
            y = scene.action.state(np.linspace(start + 1e-9, end - 1e-9, 5))[1]
            bend = np.diff(y, 2) / ((end - start) / 4) ** 2
            assert np.allclose(bend, -scene.action.gravity, rtol=1e-4) or np.allclose(np.diff(y), 0)


def test_wall_impacts_are_at_the_walls_and_turn_the_ball() -> None:
    for scene in scenes_of(Wall):
        for event in scene.action.events():
            x = scene.action.state(np.array([event.time_seconds]))[0][0]
            assert min(abs(x - scene.radius), abs(scene.width - scene.radius - x)) < 1e-9
            before, after = (slope(scene, event.time_seconds, side, 0) for side in (-1, 1))
            assert before == pytest.approx(-after) and abs(after) == pytest.approx(
                scene.action.speed, rel=1e-3
            )


def test_clocks_jump_at_ticks_alone_and_flashes_light_up_at_theirs() -> None:
    for scene in scenes_of(Clock):
        t = np.linspace(0, 1.6, 2001)
        x, y, _ = scene.action.state(t)
        jumps = t[1:][np.hypot(np.diff(x), np.diff(y)) > 1e-9]
        assert jumps == pytest.approx([event.time_seconds for event in scene.action.events()], abs=1e-3)
    for scene in scenes_of(Flash):
        for event in scene.action.events():
            before, after = scene.action.state(event.time_seconds + np.array([-1e-9, 1e-9]))[2]
            assert after == pytest.approx(1) and before < 0.75


@pytest.mark.parametrize("spec", [SPEC, TINY], ids=["1.6s", "0.8s"])
def test_every_clip_has_an_early_event_and_room_between_events(spec: ClipSpec) -> None:
    clips = BounceClips(300, spec, seed=2)
    seconds = float(spec.duration_seconds)
    for index in range(len(clips)):
        times = [event.time_seconds for event in clips.scene(index).action.events()]
        assert 0 < times[0] <= 0.75 * seconds and times[-1] < seconds
        assert all(b - a > MIN_EVENT_SPACING_SECONDS - 1e-9 for a, b in zip(times, times[1:], strict=False))


@pytest.mark.parametrize("size", [(64, 64), (64, 112), (96, 48)], ids=str)
def test_the_ball_stays_in_the_box(size: tuple[int, int]) -> None:
    clips = BounceClips(100, ClipSpec(num_frames=16, height=size[0], width=size[1]))
    for scene in map(clips.scene, range(len(clips))):
        x, y, _ = scene.action.state(np.linspace(0, 1.6, 400))
        assert (x >= scene.radius - 1e-9).all() and (x <= scene.width - scene.radius + 1e-9).all()
        assert (y >= FLOOR_HEIGHT + scene.radius - 1e-9).all() or not isinstance(scene.action, Bounce)
        assert (y <= scene.height - scene.radius + 1e-9).all() and (y >= scene.radius).all()


def test_events_do_not_know_of_frames_samples_or_pixels() -> None:
    other = BounceClips(
        20, ClipSpec(num_frames=40, height=32, width=32, fps=Fraction(25), sample_rate=32000), 1
    )
    for index in range(20):
        a, b = CLIPS[index], other[index]
        assert (a.events, a.caption, a.label) == (b.events, b.caption, b.label)


@pytest.mark.parametrize("sample_rate", [16000, 48000])
def test_the_sound_begins_at_the_event(sample_rate: int) -> None:
    clips = BounceClips(40, dataclasses.replace(SPEC, sample_rate=sample_rate), seed=1)
    for clip in map(clips.__getitem__, range(len(clips))):
        first = int(np.ceil(clip.events[0].time_seconds * sample_rate))
        heard = int(torch.nonzero(clip.wave.abs() > 1e-6)[0])
        assert heard - first in (0, 1)  # at 0 it rises from 0: the sample on the event itself is silent


def test_the_sound_begins_between_samples() -> None:
    """At 16 kHz it is every 64th sample of the sound at 1,024 kHz: nothing is moved to the grid."""
    dull = dataclasses.replace(MATERIALS["wood"], click=0.0)
    scene = next(s for s in scenes_of(Wall) if s.radius > 0.1)
    scene = dataclasses.replace(scene, material=dull)
    coarse = render_wave(scene, SPEC, np.random.default_rng(0))
    fine = render_wave(scene, dataclasses.replace(SPEC, sample_rate=1024000), np.random.default_rng(0))
    assert np.abs(fine[::64] / np.abs(fine[::64]).max() - coarse / np.abs(coarse).max()).max() < 1e-4


def test_sound_is_in_range_and_never_clipped() -> None:
    for clip in map(CLIPS.__getitem__, range(60)):
        peak = float(clip.wave.abs().max())
        assert 0.2 < peak <= PEAK + 1e-6
        assert int((clip.wave.abs() > 0.999 * peak).sum()) < 8


def test_frames_show_the_mean_over_the_shutter() -> None:
    """The centroid of what differs from the background is the mean position while the shutter is open."""
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    for scene in scenes_of(Bounce)[:10] + scenes_of(Wall)[:10]:
        empty = dataclasses.replace(scene, action=Flash((9.0,), x=-9.0, y=0.5))
        cover = np.abs(render_frames(scene, SPEC).astype(float) - render_frames(empty, SPEC)).sum(-1)
        # 200 instants of each frame's exposure.
        t = (np.arange(16)[:, None] + (np.arange(200) + 0.5) / 200 * SHUTTER) / 10
        x, y, _ = scene.action.state(t)
        got_x = (cover * columns).sum((1, 2)) / cover.sum((1, 2))
        got_y = (cover * rows).sum((1, 2)) / cover.sum((1, 2))
        assert np.abs(got_x - x.mean(1) * 64).max() < 1.0  # the ball is lit from the upper left
        assert np.abs(got_y - (1 - y.mean(1)) * 64).max() < 1.0


def test_clips_are_what_the_spec_says_and_a_pure_function_of_seed_and_index() -> None:
    for spec in (TINY, ClipSpec(12, 64, 48, Fraction(17), 16320)):
        clips, again = BounceClips(5, spec, seed=3), BounceClips(50, spec, seed=3)
        backwards = [again[index] for index in reversed(range(5))][::-1]
        for clip, other in zip(map(clips.__getitem__, range(5)), backwards, strict=True):
            assert same(clip.require(spec), other)
    assert not same(BounceClips(5, TINY, seed=3)[0], BounceClips(5, TINY, seed=4)[0])


def same(a: Clip, b: Clip) -> bool:
    words = (a.label, a.caption, a.name, a.events) == (b.label, b.caption, b.name, b.events)
    return words and torch.equal(a.frames, b.frames) and torch.equal(a.wave, b.wave)


def test_captions_and_labels_say_what_happens() -> None:
    verbs = {
        "floor": "bounces on the floor",
        "wall": "hits the walls",
        "tick": "clock hand",
        "flash": "lights up",
    }
    seen = set()
    for scene in map(CLIPS.scene, range(len(CLIPS))):
        events = scene.action.events()
        material, action = scene.label.split("_")
        assert f" {material} ball " in scene.caption and verbs[events[0].kind] in scene.caption
        assert scene.caption.endswith(f" {len(events)} time" + "s" * (len(events) != 1))
        size = scene.caption.split()[1]
        assert scene.radius == pytest.approx(RADII[size], rel=0.08)
        seen.add((material, action, size))
        assert scene.label in CLASS_NAMES
    assert len(CLASS_NAMES) == 20 and len(seen) == 60


def test_an_index_outside_the_set_is_an_error() -> None:
    with pytest.raises(IndexError, match="BounceClips: want 0 <= index < 5, got 5"):
        BounceClips(5, TINY)[5]
