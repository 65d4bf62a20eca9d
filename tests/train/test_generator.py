"""What the generator is shown and judged on, per task."""

from dataclasses import replace

import pytest
import torch
from nano import EVERY_TASK, nano, nano_run, quiet_console

from pavdit.clip import ClipSpec
from pavdit.config import TASKS, ConfigError, RunConfig
from pavdit.data.bounce import CLASS_NAMES, BounceClips
from pavdit.data.latent_cache import LatentCache
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA
from pavdit.train.draws import Draws
from pavdit.train.generator import GeneratorStage
from pavdit.train.parallel import Part

CPU = torch.device("cpu")


def stage_of(tmp_path, config=None, **train):
    run = nano_run(tmp_path, "generator", autoencoder=tmp_path, **train)
    model = config or nano()
    model = model.model_copy(update={"text": model.text.model_copy(update={"class_names": CLASS_NAMES})})
    run = run.model_copy(update={"model": model})
    torch.manual_seed(0)
    mdsa = MDSA(model).eval()
    cache = LatentCache(tmp_path / "latents", mdsa, model, {})
    clips = BounceClips(6, model.clip)
    cache.encode(clips, say=str, progress=lambda done, total: None)
    return GeneratorStage(run, cache.open(clips), None, mdsa, CPU)


def draws_of(stage, clips):
    flow = stage.config.model.flow
    return Draws.of(torch.as_tensor(clips), stage.task_shares, flow, seed=0, step=0, text_dropout=0.0)


def latents_of(stage, way, clips):
    return stage.train.read(list(clips), [way] * len(clips))


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
    """Loss of one update of one task against a spy; returns (loss, what it saw, joint, alone, noise)."""

    def call(task, answer, clips, config=None):
        stage = stage_of(tmp_path, config, tasks={task: 1.0})
        spy, draws = Spy(answer), draws_of(stage, clips)
        stage.model.stdit = spy
        loss = stage._error(stage.model, stage.train, draws)
        joint, alone = (latents_of(stage, way, clips) for way in ("joint", "alone"))
        return (
            loss,
            spy.seen,
            joint,
            alone,
            draws.noise(tuple(joint.shape[1:]), stage.config.model.flow, joint.device),
        )

    return call


@pytest.mark.parametrize("task", TASKS)
def test_what_a_task_shows(error_of, task):
    _, seen, joint, alone, noise = error_of(task, torch.zeros_like, [0, 3, 5])
    half = noise.shape[2] // 2
    streams = {"video": slice(0, half), "audio": slice(half, None)}
    given = {"v2a": "video", "a2v": "audio"}.get(task)
    still = {"t2v": "audio", "t2a": "video"}.get(task)
    assert seen["task"].tolist() == [TASKS.index(task)] * 3
    for column, (stream, frames) in enumerate(streams.items()):
        shown, t = seen["latent"][:, :, frames], seen["t"][:, column]
        if stream == given:
            assert torch.equal(shown, alone[:, :, frames])
            assert seen["clean"][:, column].all() and t.eq(1).all()
        elif stream == still:
            assert torch.equal(shown, noise[:, :, frames])
            assert not seen["clean"][:, column].any() and t.eq(0).all()
        else:
            data = (alone if still else joint)[:, :, frames]
            begin, s = noise[:, :, frames], t[:, None, None, None, None]
            torch.testing.assert_close(shown, begin + s * (data - begin))
            assert not seen["clean"][:, column].any() and ((t > 0) & (t < 1)).all()


@pytest.mark.parametrize("task", TASKS)
def test_only_made_planes_count(error_of, task):
    loss, _, joint, alone, noise = error_of(task, torch.zeros_like, [1, 2])
    half = noise.shape[2] // 2
    made = {"v2a": slice(half, None), "t2a": slice(half, None), "a2v": slice(0, half), "t2v": slice(0, half)}
    frames = made.get(task, slice(None))
    data = alone if task in ("t2v", "t2a") else joint
    want = (data - noise)[:, :, frames].square().flatten(1).mean(1).mean()
    torch.testing.assert_close(loss, want)


def test_padding_does_not_count(error_of):
    config = nano(clip=ClipSpec(num_frames=4, height=16, width=32))  # th has 4 of 8 columns
    layout = PlaneLayout.choose(config.grid)
    assert layout.name == "fold" and layout.valid() is not None

    def poison(latent):
        return torch.where(layout.valid(), 0.0, 1e6).expand_as(latent)

    poisoned, *_ = error_of("t2av", poison, [0], config)
    clean, *_ = error_of("t2av", torch.zeros_like, [0], config)
    assert torch.equal(poisoned, clean)


def test_clips_without_a_class_train_the_null_caption(tmp_path):
    stage = stage_of(tmp_path)
    spy = Spy(torch.zeros_like)
    stage.model.stdit = spy
    unlabelled = replace(stage.train, labels=("",) * 6, captions=("",) * 6)
    stage._error(stage.model, unlabelled, draws_of(stage, range(6)))
    assert spy.seen["drop_text"].all()


@pytest.mark.parametrize(
    "parts", [[Part(0, 2), Part(1, 2)], [Part(rank=0, ranks=3), Part(rank=1, ranks=3), Part(rank=2, ranks=3)]]
)
def test_parts_of_an_update_see_what_the_whole_sees(tmp_path, parts):
    stage = stage_of(tmp_path, tasks=EVERY_TASK, batch_size=6)
    whole = stage.loss(5)["loss"]
    torch.testing.assert_close(torch.stack([stage.loss(5, part)["loss"] for part in parts]).mean(), whole)
    spies = []
    for some in ([Part()], parts):
        spies.append([])
        for part in some:
            spy = stage.model.stdit = Spy(torch.zeros_like)
            stage.loss(5, part)
            spies[-1].append(spy.seen)
    for name, seen in spies[0][0].items():
        if name not in ("text", "text_mask"):
            assert torch.equal(torch.cat([part[name] for part in spies[1]]), seen), name


def test_validation_says_every_task_apart_and_repeats_itself(tmp_path):
    stage = stage_of(tmp_path, tasks={"t2av": 3.0, "v2a": 1.0}, pair_clips=3)
    measured = stage.validate(stage.model)
    assert measured == stage.validate(stage.model)
    errors = {"velocity_error", "t2av_velocity_error", "v2a_velocity_error"}
    assert measured.keys() == {f"train_{name}" for name in errors | {"v2a_right", "v2a_wrong", "v2a_rank"}}
    mean = 0.75 * measured["train_t2av_velocity_error"] + 0.25 * measured["train_v2a_velocity_error"]
    assert measured["train_velocity_error"] == pytest.approx(mean)


def test_what_people_see_is_the_same_every_time(tmp_path):
    stage = stage_of(tmp_path, tasks=EVERY_TASK)
    shown, again = stage.show(stage.model), stage.show(stage.model)
    assert shown.clips.keys() == {f"{task}-{i}" for task in TASKS for i in range(2)}
    for name, clip in shown.clips.items():
        clip.require(stage.config.model.clip)
        assert torch.equal(clip.frames, again.clips[name].frames) and torch.equal(
            clip.wave, again.clips[name].wave
        )
    assert not shown.clips["t2a-0"].frames.any() and not shown.clips["t2v-0"].wave.any()
    assert shown.pictures["sheet"].dtype == torch.uint8 and shown.pictures["sheet"].shape[2] == 3


def test_class_names_come_from_the_clips(nano_generator_run):
    from pavdit.train.checkpoint import open_checkpoint

    assert open_checkpoint(nano_generator_run).config.model.text.class_names == CLASS_NAMES


def test_classes_that_the_configuration_does_not_know_are_named(tmp_path, nano_autoencoder_run):
    config = nano_run(tmp_path / "g", "generator", autoencoder=nano_autoencoder_run).model_dump()
    config["model"]["text"]["class_names"] = ("cat",)
    with pytest.raises(ConfigError, match="text.class_names: want every class of the clips .*, got cat$"):
        GeneratorStage.open(RunConfig.model_validate(config), CPU, quiet_console())


def test_shares_that_choose_no_task_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="train.tasks: want shares >= 0, one of them > 0"):
        stage_of(tmp_path, tasks={"t2av": 0.0})
