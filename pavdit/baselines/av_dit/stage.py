"""Train AV-DiT's adapters to predict the noise of both latents (Wang et al., arXiv 2406.07686, eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from pavdit.baselines.av_dit.coders import Coders, digest_of
from pavdit.baselines.av_dit.config import AVDiTRun
from pavdit.baselines.av_dit.dit import ImageDiT
from pavdit.baselines.av_dit.image_weights import load_image_dit
from pavdit.baselines.av_dit.latents import LatentClips
from pavdit.baselines.av_dit.network import AVDiT, AVDiTAdapters
from pavdit.baselines.av_dit.sampler import Sampler
from pavdit.baselines.mm_diffusion.schedule import NoiseSchedule
from pavdit.config import ConfigError
from pavdit.contact_sheet import contact_sheet
from pavdit.data.clips import open_clips
from pavdit.nn.adapters import freeze_backbone
from pavdit.nn.recompute import recompute_layers
from pavdit.train.examples import batch_indices, step_generator
from pavdit.train.parallel import WHOLE, Part
from pavdit.train.shown import Shown

VALIDATION_BATCH = 8
SHOWN_CLIPS = 2
STREAMS = ("video", "audio")


class AVDiTStage:
    """Mean squared errors of the noise of both streams, added.

    Args:
        config: the run.
        image: the image DiT, on the run's device.
        coders: the frozen VAEs and the vocoder.
        train: latents to learn from.
        held_out: latents to validate on; None: those of `train`, and the measures' names say so.
        device: of the model.
    """

    def __init__(
        self,
        config: AVDiTRun,
        image: ImageDiT,
        coders: Coders,
        train: LatentClips,
        held_out: LatentClips | None,
        device: torch.device,
    ) -> None:
        self.config, self.image, self.coders, self.train = config, freeze_backbone(image), coders, train
        self.validation, self.split = (held_out, "held_out") if held_out else (train, "train")
        self.adversary, self.device = None, device
        self.frozen: Mapping[str, Mapping[str, Tensor]] = {}
        self.schedule = NoiseSchedule(config.model.diffusion)
        self.model = AVDiTAdapters(image, config.model).to(device)
        self.network = AVDiT(image, self.model)
        recompute_layers(self.network, config.train.gradient_checkpointing)

    @classmethod
    def open(cls, config: AVDiTRun, device: torch.device, console: Console) -> tuple[AVDiTRun, AVDiTStage]:
        """Read the frozen weights, encode what is not in the cache yet, and fill in the weights' digest.

        Raises:
            ConfigError: frozen weights are missing, or not the ones that the run names.
            DataError: they are damaged or of other sizes, or a clip cannot be read.
        """
        frozen, digest = config.frozen, digest_of(config.frozen)
        if config.model.frozen_digest not in ("", digest):
            raise ConfigError(f"model.frozen_digest: want {config.model.frozen_digest}, got weights {digest}")
        model = config.model.model_copy(update={"frozen_digest": digest})
        config = config.model_copy(update={"model": model})
        image = open_image_dit(config)
        coders = Coders.load(model, frozen, device)
        train, held_out = open_clips(config.data, model.clip)
        console.print(train.summary)
        root = config.train.latent_cache or config.train.run_dir.parent / "latents"
        sets = [
            LatentClips(root, coders, digest, config.data, clips, console) if len(clips) else None
            for clips in (train, held_out)
        ]
        assert sets[0] is not None  # noqa: S101 - `open_clips` gives clips to train on
        stage = cls(config, image.to(device), coders, sets[0], sets[1], device)
        own, whole = (sum(p.numel() for p in m.parameters()) for m in (stage.model, image))
        console.print(
            f"{len(train)} clips to train on, {len(held_out)} held out; {own:,} parameters beside the "
            f"{whole:,} of the image DiT, which stay as they are"
        )
        return config, stage

    def loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """The error of a part of update `step`, and that of either stream."""
        return self.objective(self.inputs(step, part))

    def inputs(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """Latents, noise and times of a part of update `step`, on the device."""
        train = self.config.train
        clips = batch_indices(len(self.train), train.batch_size, train.seed, step)
        return self._shown(self.train, clips, step_generator(train.seed, step), part.rows(train.batch_size))

    def objective(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss on `inputs`: work of the device alone."""
        return self._errors(self.network, inputs)

    def adversary_loss(self, step: int, part: Part = WHOLE) -> dict[str, Tensor]:
        """There is no adversary."""
        return {}

    def clip_names(self, step: int) -> tuple[str, ...]:
        """The clips of update `step`."""
        train = self.config.train
        return tuple(
            self.train.names[i] for i in batch_indices(len(self.train), train.batch_size, train.seed, step)
        )

    @torch.no_grad()
    def validate(self, model: Any) -> dict[str, float]:  # noqa: ANN401 (averaged adapters)
        """Errors of averaged adapters; times and noise are the same every time."""
        network, totals, count = AVDiT(self.image, model), dict[str, float](), len(self.validation)
        for first in range(0, count, VALIDATION_BATCH):
            clips = torch.arange(first, min(first + VALIDATION_BATCH, count))
            shown = self._shown(self.validation, clips, step_generator(0, first), slice(None))
            for name, value in self._errors(network, shown).items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(clips) / count
        return {
            f"{self.split}_{'noise_error' if name == 'loss' else name}": value
            for name, value in totals.items()
        }

    def show(self, model: Any) -> Shown:  # noqa: ANN401
        """Clips of averaged adapters, of the same seeds every time."""
        config = self.config.model
        sampler = Sampler(config, AVDiT(self.image, model), self.device)
        made = self.coders.decode(*sampler.make(range(SHOWN_CLIPS), self.config.sampling))
        clips = {f"seed-{seed}": clip for seed, clip in enumerate(made)}
        return Shown({"sheet": contact_sheet(made, config.clip, config.mel).movedim(0, 2)}, clips)

    def _shown(
        self, latents: LatentClips, clips: Tensor, random: torch.Generator, rows: slice
    ) -> dict[str, Tensor]:
        """Draws for the whole batch, of which some rows are taken."""
        config = self.config.model
        t = torch.randint(config.diffusion.num_timesteps, (len(clips),), generator=random)
        shapes = zip(STREAMS, (config.picture_shape, config.sound_shape), strict=True)
        noise = {name: torch.randn((len(clips), *shape), generator=random) for name, shape in shapes}
        data = dict(zip(STREAMS, latents.read(clips[rows].tolist()), strict=True))
        shown = {"t": t[rows]}
        shown |= {f"{name}_noise": noise[name][rows] for name in STREAMS}
        shown |= {name: self.schedule.diffuse(data[name], noise[name][rows], t[rows]) for name in STREAMS}
        return {name: x.to(self.device, non_blocking=True) for name, x in shown.items()}

    def _errors(self, network: AVDiT, shown: Mapping[str, Tensor]) -> dict[str, Tensor]:
        predicted = network(shown["video"], shown["audio"], shown["t"])
        errors = {
            f"{name}_noise_error": (value.float() - shown[f"{name}_noise"]).square().mean()
            for name, value in zip(STREAMS, predicted, strict=True)
        }
        return {"loss": errors["video_noise_error"] + errors["audio_noise_error"], **errors}


def open_image_dit(config: AVDiTRun) -> ImageDiT:
    """The frozen DiT, float32 on the CPU.

    Raises:
        DataError: its file is missing, damaged or of another architecture.
    """
    with torch.device("meta"):
        image = ImageDiT(config.model.dit, config.model.picture.channels)
    image = image.to_empty(device="cpu")
    load_image_dit(image, config.frozen.image_dit)
    return image
