"""What the generator is shown and judged on, per task."""

import pytest
import torch
from nano import nano, nano_run, quiet_console

from pavdit.clip import ClipSpec
from pavdit.config import TASKS, ConfigError, RunConfig
from pavdit.data.bounce import BounceClips
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA
from pavdit.train.examples import in_order, step_generator
from pavdit.train.generator import GeneratorStage, encode_clips

CPU = torch.device("cpu")


def stage_of(tmp_path, config=None, **train):
    run = nano_run(tmp_path, "generator", autoencoder=tmp_path, **train)
    model = config or nano()
    model = model.model_copy(
        update={"text": model.text.model_copy(update={"class_names": BounceClips.class_names})}
    )
    run = run.model_copy(update={"model": model})
    torch.manual_seed(0)
    mdsa = MDSA(model).eval()
    latents = encode_clips(mdsa, BounceClips(6, model.clip), model, CPU)
    return GeneratorStage(run, latents, None, mdsa, CPU)


class Spy(torch.nn.Module):
    """Stands for STDiT: remembers what it is shown and answers with what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.seen = answer, None

    def forward(self, latent, t, text, **condition):
        self.seen = {"latent": latent, "t": t, "text": text} | condition
        return self.answer(latent)


@pytest.fixture
def error_of(tmp_path):
    """Loss of one update of one task against a spy; returns (loss, what it saw, latents, noise)."""

    def call(task, answer, indices, config=None, monkeypatch=None):
        stage = stage_of(tmp_path, config, tasks={task: 1.0})
        noises = []
        import pavdit.train.generator as module

        draw = module.draw_noise
        monkeypatch.setattr(module, "draw_noise", lambda *a: noises.append(draw(*a)) or noises[-1])
        spy = Spy(answer)
        stage.model.stdit = spy
        loss = stage._error(stage.model, stage.train, indices, step_generator(0, 0))
        return loss, spy.seen, stage.train, noises[0]

    return call


@pytest.mark.parametrize("task", TASKS)
def test_what_a_task_shows(error_of, task, monkeypatch):
    indices = torch.tensor([0, 3, 5])
    _, seen, latents, noise = error_of(task, torch.zeros_like, indices, monkeypatch=monkeypatch)
    half = noise.shape[2] // 2
    streams = {"video": slice(0, half), "audio": slice(half, None)}
    given = {"v2a": "video", "a2v": "audio"}.get(task)
    still = {"t2v": "audio", "t2a": "video"}.get(task)
    assert seen["task"].tolist() == [TASKS.index(task)] * 3
    for column, (stream, frames) in enumerate(streams.items()):
        shown, t = seen["latent"][:, :, frames], seen["t"][:, column]
        if stream == given:
            assert torch.equal(shown, latents.alone[indices][:, :, frames])
            assert seen["clean"][:, column].all() and t.eq(1).all()
        elif stream == still:
            assert torch.equal(shown, noise[:, :, frames])
            assert not seen["clean"][:, column].any() and t.eq(0).all()
        else:
            data = (latents.alone if still else latents.joint)[indices][:, :, frames]
            begin, s = noise[:, :, frames], t[:, None, None, None, None]
            torch.testing.assert_close(shown, begin + s * (data - begin))
            assert not seen["clean"][:, column].any() and ((t > 0) & (t < 1)).all()


@pytest.mark.parametrize("task", TASKS)
def test_only_made_planes_count(error_of, task, monkeypatch):
    indices = torch.tensor([1, 2])
    loss, _, latents, noise = error_of(task, torch.zeros_like, indices, monkeypatch=monkeypatch)
    half = noise.shape[2] // 2
    made = {"v2a": slice(half, None), "t2a": slice(half, None), "a2v": slice(0, half), "t2v": slice(0, half)}
    frames = made.get(task, slice(None))
    data = (latents.alone if task in ("t2v", "t2a") else latents.joint)[indices]
    want = (data - noise)[:, :, frames].square().flatten(1).mean(1).mean()
    torch.testing.assert_close(loss, want)


def test_padding_does_not_count(error_of, monkeypatch):
    config = nano(clip=ClipSpec(num_frames=4, height=16, width=32))  # th has 4 of 8 columns
    layout = PlaneLayout.choose(config.grid)
    assert layout.name == "fold" and layout.valid() is not None
    indices = torch.tensor([0])

    def poison(latent):
        return torch.where(layout.valid(), 0.0, 1e6).expand_as(latent)

    poisoned, *_ = error_of("t2av", poison, indices, config, monkeypatch)
    clean, *_ = error_of("t2av", torch.zeros_like, indices, config, monkeypatch)
    assert torch.equal(poisoned, clean)


def test_latents_alone_know_nothing_of_the_other_stream():
    torch.manual_seed(0)
    config, mdsa = nano(), MDSA(nano()).eval()
    clips = BounceClips(3, config.clip)
    latents = encode_clips(mdsa, clips, config, CPU)
    layout = PlaneLayout.choose(config.grid)
    [examples] = in_order(clips, 3, config, CPU)
    with torch.no_grad():
        video = mdsa.encode(examples.video, None)[0].mode()
        audio = mdsa.encode(None, examples.mel)[1].mode()
        both = [q.mode() for q in mdsa.encode(examples.video, examples.mel)]
    assert torch.equal(latents.alone, layout.stack(video, audio))
    assert torch.equal(latents.joint, layout.stack(*both))
    assert latents.labels == tuple(clips[i].label for i in range(3))


def test_clips_without_a_class_train_the_null_caption(tmp_path):
    stage = stage_of(tmp_path)
    unlabelled = type(stage.train)(stage.train.joint, stage.train.alone, ("",) * 6, stage.train.names)
    spy = Spy(torch.zeros_like)
    stage.model.stdit = spy
    stage._error(stage.model, unlabelled, torch.arange(6), step_generator(0, 0))
    assert spy.seen["drop_text"].all()


def test_class_names_come_from_the_clips(nano_generator_run):
    from pavdit.train.checkpoint import open_checkpoint

    assert open_checkpoint(nano_generator_run).config.model.text.class_names == tuple(BounceClips.class_names)


def test_classes_that_the_configuration_does_not_know_are_named(tmp_path, nano_autoencoder_run):
    config = nano_run(tmp_path / "g", "generator", autoencoder=nano_autoencoder_run).model_dump()
    config["model"]["text"]["class_names"] = ("cat",)
    with pytest.raises(ConfigError, match="text.class_names: want every class of the clips .*, got cat$"):
        GeneratorStage.open(RunConfig.model_validate(config), CPU, quiet_console())


def test_shares_that_choose_no_task_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="train.tasks: want shares >= 0, one of them > 0"):
        stage_of(tmp_path, tasks={"t2av": 0.0})
