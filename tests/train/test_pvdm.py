"""One stream's autoencoder (PVDM), and a generator on the latents of two encoders that have never met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nano import EVERY_TASK, nano, nano_run, quiet_console
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, interpolate

from pavdit.config import ConfigError, RunConfig, load_run
from pavdit.data.bounce import BounceClips
from pavdit.data.latent_cache import LatentCache
from pavdit.encoders import Autoencoder, EncoderPair
from pavdit.latents import Planes
from pavdit.mdsa import MDSA
from pavdit.media import probe, read_clip
from pavdit.pipeline import Pipeline
from pavdit.train.checkpoint import CheckpointError
from pavdit.train.generator import GeneratorStage
from pavdit.train.run import run_training

CONFIGS = Path(__file__).parents[2] / "configs"
PVDM = {"hw_self_attn", "mt_self_attn", "gcm_attn", "bi_block_attn", "kl"}


def run_of(run_dir: Path, streams: str, stage: str = "autoencoder", **train: object) -> RunConfig:
    tree = nano_run(run_dir, stage, **train).model_dump()
    tree["model"]["mdsa"] |= {"streams": streams} | dict.fromkeys(PVDM, False)
    tree["model"]["mdsa"]["discriminator"] = {"width": 8, "depth": 1}
    return RunConfig.model_validate(tree)


def losses(run_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def trained(config: RunConfig) -> dict[str, float]:
    """Half of the steps, then the rest by the same command."""
    half = config.train.model_copy(update={"num_steps": config.train.num_steps // 2})
    run_training(config.model_copy(update={"train": half}), console=quiet_console())
    return run_training(config, console=quiet_console()).metrics


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pvdm")
    options = {"num_steps": 48, "checkpoint_every": 24, "log_every": 6, "ema_decay": 0.9}
    runs = {stream: root / stream for stream in ("video", "audio")}
    measured = {
        stream: trained(run_of(run, stream, show_every=48, **options)) for stream, run in runs.items()
    }
    assert [name for name in measured["video"] if "mel" in name] == []
    assert measured["video"]["held_out_video_psnr_db"] > 10
    assert [name for name in measured["audio"] if "video" in name] == []
    return runs


@pytest.fixture(scope="module")
def generator(encoders, tmp_path_factory) -> Path:
    run_dir = encoders["video"].with_name("generator")
    options = {"num_steps": 48, "checkpoint_every": 24, "log_every": 6, "learning_rate": 0.01}
    pair = {"autoencoder": encoders["video"], "audio_autoencoder": encoders["audio"]}
    trained(run_of(run_dir, "video", "generator", tasks=EVERY_TASK, **options, **pair))
    return run_dir


def test_a_stream_has_the_parameters_of_pvdm():
    model = load_run(CONFIGS / "pvdm-folder.yaml").model
    with torch.device("meta"):
        streams = {
            stream: MDSA(model.model_copy(update={"mdsa": model.mdsa.model_copy(update={"streams": stream})}))
            for stream in ("video", "audio")
        }
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in streams.items()}
    assert all(name.startswith("video_") for name in streams["video"].state_dict())
    # what PVDM does not have: norms before latent and pixels, the log-variance heads of a second stage
    latent = streams["video"].video_to_latent
    ours = sum(p.numel() for m in (latent.norm, latent.log_variance) for p in m.parameters()) + 2 * 384
    assert round((count["video"] - ours) / 1e6, 2) == 62.06
    assert round(count["video"] / 1e6, 2) == 62.07
    assert round(count["audio"] / 1e6, 2) == 61.93  # patches of 8 x 1 mel values instead of 8 x 8 x 3 pixels


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_it_learns_its_stream_alone(encoders, stream):
    found = losses(encoders[stream])
    assert len(found) == 8 and found[-1] < 0.7 * found[0]
    assert (encoders[stream] / "shown" / "step-00000048").is_dir()


def test_its_second_stage_meets_the_discriminators_of_its_stream(encoders, tmp_path):
    second = run_of(tmp_path / "second", "audio", first_stage=encoders["audio"], num_steps=2)
    run_training(second, console=quiet_console())
    line = json.loads((tmp_path / "second" / "log.jsonl").read_text().splitlines()[1])
    assert "spectrogram_accuracy" in line and not any(name.startswith(("clip_", "video_")) for name in line)


def test_a_generator_joins_two_encoders(encoders, generator, tmp_path):
    found = losses(generator)
    assert len(found) == 8 and found[-1] < 0.9 * found[0]
    pipeline = Pipeline.from_pretrained(generator, "cpu")
    [made] = pipeline(pipeline.config.text.class_names[0], steps=2)
    assert probe(made.save(tmp_path / "x.mp4")).duration_seconds == pipeline.config.clip.duration_seconds
    clip = BounceClips(1, nano().clip)[0]
    assert read_clip(tmp_path / "x.mp4", nano().clip).wave.abs().max() > 0
    for stream, planes in zip(("video", "audio"), pipeline.encode(clip), strict=True):
        own = Pipeline.from_pretrained(encoders[stream], "cpu").encode_alone(clip, stream)
        assert torch.equal(planes.hw, own.hw) and torch.equal(planes.th, own.th)
    with pytest.raises(
        ValueError, match="^encode: want video alone, which is all that it has, got video and"
    ):
        Pipeline.from_pretrained(encoders["video"], "cpu").encode(clip)


@pytest.mark.parametrize(
    ("streams", "train", "message"),
    [
        ("video", {}, "got model.mdsa.streams 'video' and audio_autoencoder None"),
        ("audio", {"audio_autoencoder": "{audio}"}, "got model.mdsa.streams 'audio' and audio_autoencoder"),
        ("video", {"audio_autoencoder": "{video}"}, "audio_mdsa: want it to have sound and mdsa a picture"),
        (
            "video",
            {"autoencoder": "{audio}", "audio_autoencoder": "{audio}"},
            "want an autoencoder with mdsa",
        ),
        ("both", {"autoencoder": "{generator}"}, "want the runs of both encoders as autoencoder and audio_"),
    ],
)
def test_encoders_that_do_not_fit_are_named(encoders, generator, tmp_path, streams, train, message):
    places = encoders | {"generator": generator}
    options = {"autoencoder": "{video}"} | train
    options = {name: value.format(**places) for name, value in options.items()}
    with pytest.raises((ConfigError, CheckpointError, ValueError), match=message):
        run_training(run_of(tmp_path / "x", streams, "generator", **options), console=quiet_console())


class Pooling(Autoencoder):
    """Somebody else's encoder of pictures: their mean over each axis, a colour a channel."""

    def __init__(self, grid: tuple[int, int, int], size: tuple[int, int, int]) -> None:
        super().__init__()
        self.grid, self.size, self.unused = grid, size, nn.Parameter(torch.zeros(()))

    def latents(self, video: Tensor | None, audio: Tensor | None) -> tuple[Planes | None, Planes | None]:
        assert video is not None and audio is None
        grey = torch.cat([video, video.mean(1, keepdim=True)], 1)  # C = 4
        cells = adaptive_avg_pool3d(grey, self.grid)  # (B, C, T, H', W')
        return Planes(cells.mean(2), cells.mean(3), cells.mean(4)), None

    def decode(self, video: Planes | None, audio: Planes | None) -> tuple[Tensor | None, Tensor | None]:
        assert video is not None and audio is None
        volume = video.hw[:, :3, None].expand(-1, -1, self.grid[0], -1, -1)
        return interpolate(volume, self.size), None


def test_any_encoders_latents_can_be_learned(encoders, tmp_path):
    sound = Pipeline.from_pretrained(encoders["audio"], "cpu").autoencoder
    pair = EncoderPair(Pooling((4, 4, 4), (4, 16, 16)), sound)
    clips = BounceClips(4, nano().clip)
    config = nano(text={"class_names": clips.class_names})
    cache = LatentCache(tmp_path / "latents", pair, config, {})
    cache.encode(clips, say=print, progress=lambda done, total: None)
    run = nano_run(tmp_path / "run", "generator", autoencoder=tmp_path)
    run = run.model_copy(update={"model": config})
    latents = cache.open(clips)
    stage = GeneratorStage(run, latents, None, pair, torch.device("cpu"))
    assert stage.loss(0)["loss"].isfinite()
    video, _ = cache.layout.unstack(latents.read([0], ["joint"]))
    frames = clips[0].frames.float() / 127.5 - 1  # (T, 3, H, W)
    torch.testing.assert_close(
        video.hw[0, :3], frames.mean(0).unflatten(1, (4, 4)).unflatten(3, (4, 4)).mean((2, 4))
    )
    pipeline = Pipeline(config, pair, stage.model)
    [made] = pipeline(None, steps=1)
    assert made.clip.frames.float().std() > 0 and made.clip.wave.abs().max() > 0
