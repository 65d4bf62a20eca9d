"""A procedural set of sounding videos whose events are known exactly: needs no download and teaches sync."""

from __future__ import annotations

import numpy as np
import torch

from pavdit.clip import Clip, ClipSpec
from pavdit.data.bounce.materials import MATERIALS
from pavdit.data.bounce.picture import render_frames
from pavdit.data.bounce.scene import Body, Scene
from pavdit.data.bounce.script import Scenes, draw_scene
from pavdit.data.bounce.sound import MIN_SAMPLE_RATE, render_wave
from pavdit.data.bounce.words import CLASS_NAMES, SIMPLE_CLASS_NAMES
from pavdit.data.record import ClipRecord

__all__ = ["CLASS_NAMES", "MATERIALS", "Body", "BounceClips", "Scene", "draw_scene"]


class BounceClips:
    """`num_clips` clips of things that bounce, hit walls, tick, flash, roll and slide, drawn at each access.

    Clip i is a pure function of (seed, i, spec), and its scene (label, caption, events, where everything
    is when) of (seed, i, duration, aspect): neither frame rate nor size nor sample rate moves an event.

    Attributes:
        class_names: ``<material>_<action>`` and ``<material>_and_<material>``, sorted.
        varies: False, a clip is the same each time that it is read.
        skips_damaged: False, none can be damaged.
    """

    varies = False
    skips_damaged = False

    def __init__(self, num_clips: int, spec: ClipSpec, seed: int = 0, scenes: Scenes = "all") -> None:
        """
        Args:
            num_clips: how many.
            spec: sizes and rates.
            seed: of the whole set.
            scenes: `simple` has one object before a plain wall in each clip, and no rolling and sliding.

        Raises:
            ValueError: the sample rate is too low to hold the pitches.
        """
        if spec.sample_rate < MIN_SAMPLE_RATE:
            raise ValueError(f"bounce: want sample_rate >= {MIN_SAMPLE_RATE} Hz, got {spec.sample_rate}")
        self.num_clips = num_clips
        self.spec = spec
        self.seed = seed
        self.scenes: Scenes = scenes
        self.class_names = CLASS_NAMES if scenes == "all" else SIMPLE_CLASS_NAMES
        self._records: dict[int, ClipRecord] = {}

    @property
    def summary(self) -> str:
        """What the set is, in one line."""
        return f"{self.num_clips} procedural clips, {len(self.class_names)} classes"

    def __getstate__(self) -> dict[str, object]:
        """What another process gets: it draws records itself, and megabytes would hold up its start."""
        return self.__dict__ | {"_records": {}}

    def __len__(self) -> int:
        return self.num_clips

    def scene(self, index: int) -> Scene:
        """The scene of clip `index`, before it is seen or heard."""
        shorter = min(self.spec.width, self.spec.height)
        rng = np.random.default_rng([self.seed, index])
        width, height = self.spec.width / shorter, self.spec.height / shorter
        return draw_scene(rng, width, height, float(self.spec.duration_seconds), self.scenes)

    def record(self, index: int) -> ClipRecord:
        """What is known of clip `index` without making it."""
        if index not in self._records:
            scene = self.scene(index)
            origin = f"bounce {self.scenes} {self.seed} {index}"
            self._records[index] = ClipRecord(scene.label, scene.caption, origin=origin)
        return self._records[index]

    def __getitem__(self, index: int) -> Clip:
        return self.read(index)

    def read(self, index: int, draw: int = 0) -> Clip:
        """Make clip `index`; every `draw` of it is the same.

        Raises:
            IndexError: there is no such clip.
        """
        if not 0 <= index < self.num_clips:
            raise IndexError(f"BounceClips: want 0 <= index < {self.num_clips}, got {index}")
        scene = self.scene(index)
        frames = render_frames(scene, self.spec)
        wave = render_wave(scene, self.spec, np.random.default_rng([self.seed, index, 1]))
        return Clip(
            frames=torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()),
            wave=torch.from_numpy(wave),
            fps=self.spec.fps,
            sample_rate=self.spec.sample_rate,
            label=scene.label,
            caption=scene.caption,
            name=f"bounce-{self.seed}-{index}",
            events=scene.events(),
        )
