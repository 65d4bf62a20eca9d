"""The procedural set: events obey the physics, and picture and sound obey the events."""

import dataclasses
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from pavdit.clip import Clip, ClipSpec
from pavdit.data.bounce import CLASS_NAMES, MATERIALS, BounceClips
from pavdit.data.bounce.ground import Roll, Slide
from pavdit.data.bounce.materials import RADII, pitch_hz
from pavdit.data.bounce.motion import (
    FLOOR_HEIGHT,
    MIN_EVENT_SPACING_SECONDS,
    Bounce,
    Clock,
    Flash,
    Wall,
)
from pavdit.data.bounce.picture import SHUTTER, render_frames
from pavdit.data.bounce.scene import SHAPES, Body, Scene
from pavdit.data.bounce.script import MIN_PAIR_SPACING_SECONDS
from pavdit.data.bounce.sound import PEAK, render_wave

SPEC = ClipSpec(num_frames=16, height=64, width=64)
TINY = ClipSpec(num_frames=8, height=32, width=32)
CLIPS = BounceClips(300, SPEC, seed=1)
SCENES = [CLIPS.scene(i) for i in range(len(CLIPS))]


def scenes_of(kind: type) -> list[tuple[Scene, Body]]:
    """The scenes with one object that moves so, and the object."""
    found = [(s, s.bodies[0]) for s in SCENES if len(s.bodies) == 1 and isinstance(s.bodies[0].motion, kind)]
    assert len(found) > 20
    return found


def slope(motion: object, t: float, side: int, axis: int, step: float = 1e-6) -> float:
    """Velocity just before (side -1) or after (+1) the time t."""
    near = motion.state(np.array([t + side * 1e-9, t + side * (1e-9 + step)]))[axis]
    return float(side * (near[1] - near[0]) / step)


def test_a_bounce_keeps_the_energy_of_its_fall() -> None:
    for _, body in scenes_of(Bounce):
        ball, events = body.motion, body.motion.events()
        speed = np.sqrt(2 * ball.gravity * ball.apex)  # potential energy at the apex = kinetic at the floor
        for event in events:
            y = ball.state(np.array([event.time_seconds])).y
            assert y[0] == pytest.approx(FLOOR_HEIGHT + body.radius, abs=1e-9)
            assert slope(ball, event.time_seconds, -1, 1) == pytest.approx(-speed, rel=1e-3)
            after = slope(ball, event.time_seconds, +1, 1)
            if event is events[-1] and after < 1e-3:
                assert 2 * speed * ball.restitution / ball.gravity < MIN_EVENT_SPACING_SECONDS  # at rest
                break
            speed *= ball.restitution
            assert after == pytest.approx(speed, rel=1e-3)


def test_the_flight_between_impacts_is_a_free_fall() -> None:
    for _, body in scenes_of(Bounce):
        edges = [0.0, *(event.time_seconds for event in body.motion.events()), 1.6]
        for start, end in zip(edges, edges[1:], strict=False):
            y = body.motion.state(np.linspace(start + 1e-9, end - 1e-9, 5)).y
            bend = np.diff(y, 2) / ((end - start) / 4) ** 2
            assert np.allclose(bend, -body.motion.gravity, rtol=1e-4) or np.allclose(np.diff(y), 0)


@pytest.mark.parametrize("kind", [Wall, Roll])
def test_wall_impacts_are_at_the_walls_and_turn_the_ball(kind: type) -> None:
    for scene, body in scenes_of(kind):
        for event in body.motion.events():
            if event.kind == "wall":
                x = body.motion.state(np.array([event.time_seconds])).x[0]
                assert min(abs(x - body.radius), abs(scene.width - body.radius - x)) < 1e-9
                before, after = (slope(body.motion, event.time_seconds, side, 0) for side in (-1, 1))
                assert before == pytest.approx(-after, rel=1e-3) and abs(after) > 0.3


@pytest.mark.parametrize("kind", [Roll, Slide])
def test_pushes_start_motion_from_rest_at_once(kind: type) -> None:
    for _, body in scenes_of(kind):
        for event in body.motion.events():
            if event.kind == "push":
                before, after = (slope(body.motion, event.time_seconds, side, 0) for side in (-1, 1))
                t = np.array([event.time_seconds + 1e-9])
                assert before == 0 and abs(after) == pytest.approx(body.motion.ground_speed(t)[0], rel=1e-3)
                assert abs(after) > 0.15


def test_clocks_jump_at_ticks_alone_and_flashes_light_up_at_theirs() -> None:
    for _, body in scenes_of(Clock):
        t = np.linspace(0, 1.6, 2001)
        jumps = t[1:][np.diff(body.motion.state(t).angle) > 1e-9]
        assert jumps == pytest.approx([event.time_seconds for event in body.motion.events()], abs=1e-3)
    for _, body in scenes_of(Flash):
        for event in body.motion.events():
            before, after = body.motion.state(event.time_seconds + np.array([-1e-9, 1e-9])).light
            assert after == pytest.approx(1) and before < 0.75


@pytest.mark.parametrize("spec", [SPEC, TINY], ids=["1.6s", "0.8s"])
def test_every_object_has_an_early_event_and_there_is_room_between_events(spec: ClipSpec) -> None:
    clips = BounceClips(300, spec, seed=2)
    seconds = float(spec.duration_seconds)
    for scene in map(clips.scene, range(len(clips))):
        for body in scene.bodies:
            times = [event.time_seconds for event in body.motion.events()]
            assert 0 < times[0] <= 0.75 * seconds and times[-1] < seconds
            assert all(b - a > MIN_EVENT_SPACING_SECONDS - 1e-9 for a, b in pairwise(times))
        owned = scene.owned_events()
        assert [event for event, _ in owned] == sorted(scene.events(), key=lambda e: e.time_seconds)
        for (a, of_a), (b, of_b) in pairwise(owned):
            assert of_a == of_b or b.time_seconds - a.time_seconds >= MIN_PAIR_SPACING_SECONDS


@pytest.mark.parametrize("size", [(64, 64), (64, 112), (96, 48)], ids=str)
def test_objects_stay_in_the_box_and_two_in_their_halves(size: tuple[int, int]) -> None:
    clips = BounceClips(200, ClipSpec(num_frames=16, height=size[0], width=size[1]))
    for scene in map(clips.scene, range(len(clips))):
        for i, body in enumerate(scene.bodies):
            left, right = i * scene.width / 2, (i + 1) * scene.width / len(scene.bodies)
            x, y, _, _ = body.motion.state(np.linspace(0, 1.6, 400))
            assert (x >= left + body.reach - 1e-9).all() and (x <= right - body.reach + 1e-9).all()
            assert (y <= scene.height - body.reach + 1e-9).all() and (y >= body.reach - 1e-9).all()
            assert (y >= FLOOR_HEIGHT + body.radius - 1e-9).all() or body.action in ("clock", "wall")


def test_a_fifth_of_the_clips_have_two_objects_of_other_materials_and_the_simple_part_has_none() -> None:
    pairs = [scene.bodies for scene in SCENES if len(scene.bodies) == 2]
    assert 0.14 < len(pairs) / len(SCENES) < 0.26
    assert all(a.material_name != b.material_name for a, b in pairs)
    simple = BounceClips(100, SPEC, seed=1, scenes="simple")
    assert all(
        len(scene.bodies) == 1 and scene.backdrop.kind == "plain" and scene.label in simple.class_names
        for scene in map(simple.scene, range(100))
    )
    assert len(simple.class_names) == 20 and simple.record(0).origin != CLIPS.record(0).origin


def test_materials_differ_in_pitch_at_every_size_and_in_hue() -> None:
    spans = sorted(
        (pitch_hz(m, 1.07 * RADII["large"]), pitch_hz(m, 0.93 * RADII["small"])) for m in MATERIALS.values()
    )
    assert all(high < low for (_, high), (low, _) in pairwise(spans))
    hues = sorted(m.hue for m in MATERIALS.values())
    assert min(b - a for a, b in pairwise([*hues, hues[0] + 1])) > 0.14


def test_backdrops_have_hardly_any_colour_and_a_floor_that_is_seen() -> None:
    seen = set()
    for scene in map(CLIPS.scene, range(60)):
        back = scene.backdrop.paint(scene.width, scene.height, SPEC)
        assert back.min() > 0.02 and back.max() < 0.8 and np.ptp(back, axis=-1).max() < 0.08
        assert np.abs(back[-1] - back[SPEC.height - 10]).max() > 0.015
        seen.add(scene.backdrop.kind)
    assert len(seen) == 5


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


@pytest.mark.parametrize("kind", [Wall, Roll, Slide])
def test_the_sample_rate_moves_nothing_that_is_heard(kind: type) -> None:
    """At 16 kHz it is every 16th sample of the sound at 256 kHz: hits and noise begin between samples."""
    scene, body = next(
        (s, b) for s, b in scenes_of(kind) if b.material_name in ("rubber", "wood") and b.size == "large"
    )
    coarse = render_wave(scene, SPEC, np.random.default_rng(0))
    fine = render_wave(scene, dataclasses.replace(SPEC, sample_rate=256000), np.random.default_rng(0))
    fine = fine[::16]
    level = (fine @ coarse) / (coarse @ coarse)  # each is scaled by its own loudest sample
    assert np.abs(fine - level * coarse).max() < 1e-4


def test_what_moves_over_the_floor_is_heard_until_it_rests() -> None:
    for scene, body in scenes_of(Slide)[:8]:
        wave = render_wave(scene, SPEC, np.random.default_rng(0))
        moving = body.motion.ground_speed(np.arange(SPEC.num_samples) / SPEC.sample_rate) > 0
        assert np.abs(wave[moving]).max() > 0.02 and not wave[~moving].any()


def test_sound_is_in_range_and_never_clipped() -> None:
    for clip in map(CLIPS.__getitem__, range(60)):
        peak = float(clip.wave.abs().max())
        assert 0.04 < peak <= PEAK + 1e-6
        assert int((clip.wave.abs() > 0.999 * peak).sum()) < 8


def test_a_sample_rate_below_the_pitches_is_an_error() -> None:
    with pytest.raises(ValueError, match="bounce: want sample_rate >= 8000 Hz, got 6400"):
        BounceClips(1, ClipSpec(8, 32, 32, sample_rate=6400))


@pytest.mark.parametrize("kind", [Bounce, Wall, Slide])
def test_frames_show_the_mean_over_the_shutter(kind: type) -> None:
    """The centroid of what differs from the background is the mean position while the shutter is open."""
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    for scene, body in scenes_of(kind)[:10]:
        empty = dataclasses.replace(scene, bodies=())
        cover = np.abs(render_frames(scene, SPEC).astype(float) - render_frames(empty, SPEC)).sum(-1)
        # 200 instants of each frame's exposure.
        t = (np.arange(16)[:, None] + (np.arange(200) + 0.5) / 200 * SHUTTER) / 10
        x, y, _, _ = body.motion.state(t)
        got_x = (cover * columns).sum((1, 2)) / cover.sum((1, 2))
        got_y = (cover * rows).sum((1, 2)) / cover.sum((1, 2))
        assert np.abs(got_x - x.mean(1) * 64).max() < 1.0  # the ball is lit from the upper left
        assert np.abs(got_y - (1 - y.mean(1)) * 64).max() < 1.0


def test_a_tick_inside_the_shutter_shows_both_hands_as_long_as_each_was_there() -> None:
    """The frame in which the hand jumps is a mean of the two beside it, weighed by the exact instant."""
    checked = 0
    for scene, body in scenes_of(Clock):
        frames = render_frames(scene, SPEC).astype(float)
        for event in body.motion.events():
            k, since = divmod(event.time_seconds * 10, 1)
            if 0.05 < since < SHUTTER - 0.05 and 0 < k < 15:
                before, seen, after = frames[int(k) - 1 : int(k) + 2]
                share = since / SHUTTER
                assert np.abs(seen - share * before - (1 - share) * after).max() < 2.1
                checked += 1
    assert checked > 10


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
    labels, forms = set(), set()
    clips = BounceClips(1000, SPEC, seed=1)
    for scene in map(clips.scene, range(len(clips))):
        for body in scene.bodies:
            assert body.material_name in scene.caption and body.material_name in scene.label
            assert body.radius == pytest.approx(RADII[body.size], rel=0.08)
            assert body.shape in scene.caption or f"{body.material_name} {body.action}" in scene.caption
        labels.add(scene.label)
        words = (
            {body.material_name for body in scene.bodies} | {body.size for body in scene.bodies} | set(SHAPES)
        )
        forms.add(" ".join(w for w in scene.caption.split() if w not in words and not w.isdigit()))
        if (
            scene.caption.endswith((" time", " times"))
            and len(scene.bodies) == 1
            and "roll" not in scene.label
        ):
            assert f" {len(scene.events())} time" in scene.caption
    assert labels == set(CLASS_NAMES) and len(CLASS_NAMES) == 40 and len(forms) > 40


def test_an_index_outside_the_set_is_an_error() -> None:
    with pytest.raises(IndexError, match="BounceClips: want 0 <= index < 5, got 5"):
        BounceClips(5, TINY)[5]
