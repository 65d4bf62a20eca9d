"""UniForm's setting: 4 s at 17 fps, from its configuration down to the mp4 of a model that trained on it."""

from fractions import Fraction
from pathlib import Path

import torch
from nano import nano, nano_run, quiet_console

from pavdit.clip import ClipSpec
from pavdit.config import load_run
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA
from pavdit.media import probe, read_clip
from pavdit.pipeline import Pipeline
from pavdit.stdit.model import STDiT
from pavdit.train.run import run_training

CONFIG = Path(__file__).parents[2] / "configs" / "uniform-folder-generator.yaml"


@torch.no_grad()
def test_the_configuration_is_uniforms_and_its_models_fit_it():
    run = load_run(CONFIG)
    config, clip = run.model, run.model.clip
    assert (clip.duration_seconds, clip.samples_per_frame, clip.hop_length) == (4, 960, 30)
    assert (clip.num_samples, config.grid, config.text.encoder) == (65280, (68, 32, 32), "t5")
    layout = PlaneLayout.choose(config.grid)
    assert (layout.name, layout.valid()) == ("cut", None)
    with torch.device("meta"):
        mdsa, stdit = MDSA(config), STDiT(config.stdit, layout, config.mdsa.latent_channels)
        video, sound = torch.empty(1, 3, 68, 256, 256), torch.empty(1, 1, 68, 256, 32)
        latent = layout.stack(*(posterior.mode() for posterior in mdsa.encode(video, sound)))
        assert latent.shape == (1, 4, 8, 42, 32)
        text, task, fps = torch.empty(1, 32, 1024), torch.zeros(1, dtype=torch.int64), torch.empty(1)
        velocity = stdit(latent, torch.empty(1, 2), text, task=task, fps=fps)
        assert velocity.shape == latent.shape
        assert [x.shape for x in mdsa.decode(*layout.unstack(velocity))] == [video.shape, sound.shape]
    counts = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (mdsa, stdit)]
    assert [f"{count:.2f}" for count in counts] == ["135.85", "693.96"]


def test_four_seconds_at_17_fps_from_training_to_mp4(tiny_t5, tmp_path):
    clip = ClipSpec(num_frames=68, height=16, width=16, fps=Fraction(17), sample_rate=16320)
    first = nano_run(tmp_path / "a", num_steps=3)
    first = first.model_copy(update={"model": nano(clip=clip)})
    run_training(first, console=quiet_console())
    tasks = {"t2av": 1, "v2a": 1, "a2v": 1}
    run = nano_run(tmp_path / "g", "generator", autoencoder=tmp_path / "a", tasks=tasks, num_steps=3)
    model = nano(
        clip=clip,
        stdit=run.model.stdit.model_copy(update={"text_dim": 32}),
        text={"encoder": "t5", "path": tiny_t5, "dropout": 0.5},
    )
    console = quiet_console()
    run_training(run.model_copy(update={"model": model}), console=console)
    assert "layout of P: fold, 70 frames of 4 x 4, nothing padded" in console.file.getvalue()
    made = Pipeline.from_pretrained(tmp_path / "g", "cpu")("a dog barks", steps=2)
    path = made.save(tmp_path / "x.mp4")
    info = probe(path)
    assert (info.fps, info.duration_seconds) == (17, 4)
    read_clip(path, clip).require(clip)
