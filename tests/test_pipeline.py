"""The whole way: every task, given streams stay given, a seed means the clip whatever the batch."""

import base64
from dataclasses import replace

import pytest
import torch
from nano import NUM_CLIPS, nano
from numerics import LATENTS, error

from pavdit.config import TASKS
from pavdit.data.bounce import BounceClips
from pavdit.media import probe, read_clip, write_clip
from pavdit.options import SamplingOptions
from pavdit.pipeline import Pipeline
from pavdit.provenance import Recipe, is_same_clip
from pavdit.sampling import BoundVelocity, encode_captions, place_given, sample_batch


@pytest.fixture(scope="module")
def pipeline(nano_generator_run):
    return Pipeline.from_pretrained(nano_generator_run, device="cpu")


@pytest.fixture(scope="module")
def clip():
    return BounceClips(NUM_CLIPS, nano().clip)[0]


@pytest.fixture
def noise_of(monkeypatch):
    """Records the noise that sampling starts from."""
    import pavdit.synthesis as module

    drawn, draw = [], module.draw_noise
    monkeypatch.setattr(module, "draw_noise", lambda *a: drawn.append(draw(*a)) or drawn[-1])
    return drawn


def test_encode_and_decode_give_the_clips_sizes_back(pipeline, clip):
    video, audio = pipeline.encode(clip)
    assert video.hw.shape == (1, 4, 4, 4) and audio.th.shape == (1, 4, 4, 4)
    [back] = pipeline.decode(video, audio)
    assert back.require(pipeline.config.clip) is back


def test_a_stream_encoded_alone_does_not_know_the_other(pipeline, clip):
    other = BounceClips(NUM_CLIPS, nano().clip)[1]
    mixed = type(clip)(clip.frames, other.wave, clip.fps, clip.sample_rate)
    assert torch.equal(pipeline.encode_alone(clip, "video").hw, pipeline.encode_alone(mixed, "video").hw)
    assert not torch.equal(pipeline.encode(clip)[0].hw, pipeline.encode(mixed)[0].hw)


def test_a_clip_of_other_sizes_is_refused(pipeline):
    from pavdit.config import tiny

    with pytest.raises(
        ValueError, match=r"clip .*: want \(T, 3, H, W, .* = \(4, 3, 16, 16, .* got \(8, 3, 32, 32"
    ):
        pipeline.encode(BounceClips(1, tiny().clip)[0])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_makes_what_it_says(pipeline, clip, task):
    prompt = pipeline.config.text.class_names[0]
    given = {"v2a": {"video": clip}, "a2v": {"audio": clip}}.get(task, {})
    [made] = pipeline(prompt, **given, task=task, seed=3)
    made.clip.require(pipeline.config.clip)
    assert made.latent.abs().max() <= 1
    if task == "v2a":
        assert torch.equal(made.clip.frames, clip.frames) and not torch.equal(made.clip.wave, clip.wave)
    if task == "a2v":
        assert torch.equal(made.clip.wave, clip.wave) and not torch.equal(made.clip.frames, clip.frames)
    if task == "t2v":
        assert made.clip.frames.any() and not made.clip.wave.any()
    if task == "t2a":
        assert made.clip.wave.any() and not made.clip.frames.any()


@pytest.mark.parametrize(("task", "stream"), [("v2a", "video"), ("a2v", "audio")])
def test_the_given_planes_are_the_streams_own_latent_to_the_bit(pipeline, clip, task, stream):
    [made] = pipeline(None, **{stream: clip}, seed=1)
    planes = pipeline.encode_alone(clip, stream)
    layout = pipeline.layout
    assert made.provenance["task"] == task
    frames = layout.frames_of(stream)
    assert torch.equal(made.latent[:, frames], layout.stack(planes, planes)[0][:, frames])


@pytest.mark.parametrize(("task", "still"), [("t2v", "audio"), ("t2a", "video")])
def test_the_stream_that_is_not_made_stays_noise(pipeline, noise_of, task, still):
    [made] = pipeline(None, task=task)
    frames = pipeline.layout.frames_of(still)
    assert torch.equal(made.latent[:, frames], noise_of[0][0][:, frames])
    assert not torch.equal(made.latent[:, ~frames], noise_of[0][0][:, ~frames])


@pytest.mark.parametrize(
    ("way", "first", "second", "stream"),
    [("two-step", "t2v", "v2a", "video"), ("two-step-sound-first", "t2a", "a2v", "audio")],
)
def test_two_steps_are_one_task_and_then_the_other_on_its_planes(
    pipeline, noise_of, way, first, second, stream
):
    prompt, steps = pipeline.config.text.class_names[0], []
    [made] = pipeline(
        prompt, seed=3, steps=2, pipeline=way, callback=lambda step, total, _: steps.append((step, total))
    )
    [alone] = pipeline(prompt, seed=3, steps=2, task=first)
    first_noise, second_noise, again = noise_of
    assert torch.equal(first_noise, again) and not torch.equal(first_noise, second_noise)
    given = pipeline.layout.frames_of(stream)
    assert torch.equal(made.latent[:, given], alone.latent[:, given])
    start, target = place_given(second_noise, alone.latent[None], second, pipeline.layout)
    config, text = pipeline.config, pipeline.generator.text
    velocity = BoundVelocity(
        pipeline.generator.stdit,
        encode_captions(text, [prompt], 1, config, torch.device("cpu")),
        SamplingOptions(second, 2, config.flow.guidance_scale),
        fps=10.0,
    )
    with torch.no_grad():
        assert torch.equal(made.latent, sample_batch(velocity, start, target=target)[0])
    assert torch.equal(made.clip.frames, alone.clip.frames) == (stream == "video")
    assert torch.equal(made.clip.wave, alone.clip.wave) == (stream == "audio")
    assert made.clip.frames.any() and made.clip.wave.any() and made.clip.label == prompt
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    facts = made.provenance
    assert (facts["task"], facts["pipeline"]) == ("t2av", way)
    joint = pipeline.provenance(prompt, seed=3, steps=2)[0]
    assert not is_same_clip(joint, facts)
    assert is_same_clip(joint, {k: v for k, v in joint.items() if k != "pipeline"}), "of an earlier version"


def test_a_seed_means_the_clip_whatever_the_batch(pipeline, noise_of):
    prompt = pipeline.config.text.class_names[0]
    together = pipeline(prompt, n=3, seed=5, steps=30)
    alone = [pipeline(prompt, seed=seed, steps=30)[0] for seed in (5, 6, 7)]
    for k in range(3):
        assert torch.equal(noise_of[0][k], noise_of[1 + k][0])
        assert error(together[k].latent, alone[k].latent) <= LATENTS
        assert is_same_clip(together[k].provenance, alone[k].provenance)
        assert (together[k].provenance["batch"], alone[k].provenance["batch"]) == (f"{k + 1}/3", "1/1")
    assert error(together[0].latent, together[1].latent) > 0.1


def test_several_prompts_are_the_prompts_one_by_one(pipeline):
    names = pipeline.config.text.class_names[:2]
    together = pipeline(names, n=2, seed=3, steps=2)
    assert [clip.provenance["prompt"] for clip in together] == [names[0], names[0], names[1], names[1]]
    for k, clip in enumerate(together):
        [alone] = pipeline(names[k // 2], seed=3 + k, steps=2, batch_size=1)
        assert is_same_clip(clip.provenance, alone.provenance)
        assert error(clip.latent, alone.latent) <= LATENTS


def test_a_batch_of_eight_is_eight_batches_of_one(pipeline):
    prompt = pipeline.config.text.class_names[0]
    together = pipeline(prompt, n=8, batch_size=8, steps=30)
    apart = pipeline(prompt, n=8, batch_size=1, steps=30)
    assert max(error(a.latent, b.latent) for a, b in zip(together, apart, strict=True)) <= LATENTS


def test_what_is_made_before_a_cancellation_is_kept(pipeline):
    def stop_in_the_third_batch(step, total, latent):
        seen.append(step)
        if len(seen) == 2 * total + 1:
            raise KeyboardInterrupt

    seen, made = [], []
    clips = pipeline.stream(None, n=3, steps=2, batch_size=1, callback=stop_in_the_third_batch)
    with pytest.raises(KeyboardInterrupt):
        for index, _ in clips:
            made.append(index)
    assert made == [0, 1]


def test_weights_that_are_no_number_are_named(nano_generator_run):
    from pavdit.train.trainer import NonFiniteError

    broken = Pipeline.from_pretrained(nano_generator_run, device="cpu")
    broken.generator.stdit.blocks[0].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="got NaN or infinity; so has the weight stdit.blocks.0.mlp.fc1"):
        broken(None, steps=1)


def test_bfloat16_makes_nearly_the_same_clip(pipeline, nano_generator_run):
    low = Pipeline.from_pretrained(nano_generator_run, device="cpu", dtype="bfloat16")
    assert low.stats == {
        "device": "cpu",
        "dtype": "bfloat16",
        "graph": "off: no CUDA",
        "compile": "off: gains nothing on a CPU",
        "fp8": "off: tier exact",
        "absorbed": "off: tier exact",
        "attention": "decode block: the default, step block: the default",
    }
    [got], [want] = low(None, steps=2), pipeline(None, steps=2)
    assert got.latent.dtype == torch.float32 and got.clip.wave.dtype == torch.float32
    assert error(got.latent, want.latent) <= 0.02  # measured 0.0048


def test_graphs_want_a_device(nano_generator_run):
    with pytest.raises(ValueError, match="graph: want a CUDA device for CUDA graphs, got cpu"):
        Pipeline.from_pretrained(nano_generator_run, device="cpu", graph=True)


def test_prompt_and_guidance_matter(pipeline):
    first, second = pipeline.config.text.class_names[:2]
    base = pipeline(first)[0].latent
    assert torch.equal(base, pipeline(f"a video of {first}")[0].latent)
    assert not torch.equal(base, pipeline(second)[0].latent)
    assert not torch.equal(base, pipeline(first, guidance=1.0)[0].latent)
    assert not torch.equal(base, pipeline(None)[0].latent)


def test_guidance_is_off_where_there_is_no_prompt(pipeline):
    assert torch.equal(pipeline(None, guidance=9.0)[0].latent, pipeline(None, guidance=1.0)[0].latent)


def test_the_callback_sees_every_step(pipeline):
    seen = []
    pipeline(None, steps=4, callback=lambda step, total, latent: seen.append((step, total, latent.shape[0])))
    assert seen == [(step, 4, 1) for step in (1, 2, 3, 4)]


def test_a_saved_clip_reads_back_and_says_where_it_came_from(pipeline, tmp_path):
    [made] = pipeline(pipeline.config.text.class_names[0], seed=11, steps=2, guidance=1.5)
    path = made.save(tmp_path / "a.mp4")
    back = read_clip(path, pipeline.config.clip)
    assert back.frames.shape == made.clip.frames.shape
    info = probe(path)
    assert info.fps == 10
    assert made.provenance.keys() == {
        "model",
        "checkpoint",
        "dtype",
        "device",
        "compile",
        "attention",
        "batch",
        "prompt",
        "seed",
        "steps",
        "guidance",
        "task",
        "tier",
        "guidance_interval",
        "step_cache",
        "pipeline",
    }
    assert made.provenance["seed"] == "11" and made.provenance["guidance"] == "1.5"
    assert made.provenance.items() <= info.metadata.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "yodelling"}, "prompt: want .* got 'yodelling'"),
        ({"task": "t2x"}, "task: want auto, t2av, v2a, a2v, t2v, t2a, got 't2x'"),
        ({"task": "v2a"}, "task v2a: want video to be given, got neither stream"),
        ({"pipeline": "three"}, "pipeline: want joint, two-step, two-step-sound-first, got 'three'"),
        (
            {"pipeline": "two-step", "task": "t2v"},
            "pipeline two-step: want task t2av, .*, got t2v",
        ),
        ({"task": "t2av", "video": "clip"}, "task t2av: want neither stream to be given, got video"),
        ({"video": "clip", "audio": "clip"}, "want video or audio to be given, got both"),
        ({"n": 0}, "n: want at least 1 clip, got 0"),
        ({"steps": 0}, "want num_steps >= 1, got 0"),
        ({"guidance": -1.0}, "guidance: want a scale >= 0, got -1.0"),
        ({"prompt": []}, "prompt: want at least one, got none"),
        ({"batch_size": 0}, "batch_size: want at least 1 or auto, got 0"),
        ({"prompt": " "}, "prompt: want text, or none at all for no condition, got ' '"),
        ({"n": 3, "seed": [1, 2]}, "seed: want one, or one for each of 3 clips, got 2"),
        ({"seed": -1}, r"seed: want numbers from 0 to 2\^63 - 1, got -1 to -1"),
        ({"audio": "silence"}, r"audio silence: want sound to make a picture for, got silence \(nothing abo"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_named(pipeline, clip, arguments, message):
    clips = {"clip": clip, "silence": replace(clip, wave=clip.wave * 0, name="silence")}
    arguments = {
        key: clips.get(value, value) if key in ("video", "audio") else value
        for key, value in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        pipeline(**arguments)


def test_an_autoencoder_alone_makes_no_clips(nano_autoencoder_run):
    pipeline = Pipeline.from_pretrained(nano_autoencoder_run, device="cpu")
    with pytest.raises(ValueError, match="checkpoint: want a generator's, got an autoencoder's"):
        pipeline("anything")


def test_a_generators_checkpoint_needs_nothing_else(nano_generator_run, tmp_path, clip, pipeline):
    import shutil

    from pavdit.train.checkpoint import open_checkpoint

    copy = shutil.copytree(open_checkpoint(nano_generator_run).path, tmp_path / "elsewhere")
    moved = Pipeline.from_pretrained(copy, device="cpu")
    assert moved.model_hash == pipeline.model_hash
    assert torch.equal(moved(None)[0].latent, pipeline(None)[0].latent)
    assert torch.equal(moved.encode(clip)[0].hw, pipeline.encode(clip)[0].hw)


AWKWARD = {
    "guidance": 1.2345678901234567,
    "guidance_interval": (1e-5, 0.9),
    "step_cache": None,
    "steps": 3,
    "pipeline": "joint",
}


@pytest.mark.parametrize("stream", [None, "video"])
def test_a_files_metadata_are_the_recipe_of_its_clip(pipeline, clip, tmp_path, stream):
    write_clip(clip, tmp_path / "given.mp4")
    given = {stream: pipeline.read(tmp_path / "given.mp4", 0.0)} if stream else {}
    prompts = [None, *pipeline.config.text.class_names[:3]]
    made = pipeline(prompts, **given, seed=[7, 5, 5, 1], batch_size=2, **AWKWARD)[2]
    recipe = Recipe.of(probe(made.save(tmp_path / "a.mp4")).metadata)
    assert (recipe.prompt, recipe.seed, recipe.place, recipe.batch) == (prompts[2], 5, 1, 2)
    assert recipe.choices == AWKWARD and recipe.model == pipeline.model_hash
    if stream:
        assert recipe.given == given[stream].origin
    again = pipeline(
        [recipe.prompt] * 2, **given, task=recipe.task, seed=[recipe.seed] * 2, batch_size=2, **recipe.choices
    )[recipe.place]
    assert torch.equal(again.latent, made.latent) and torch.equal(again.clip.wave, made.clip.wave)
    assert again.provenance == made.provenance


def test_what_a_call_would_make_is_known_before(pipeline, clip):
    prompts = [None, pipeline.config.text.class_names[1]]
    known = pipeline.provenance(prompts, clip, n=2, steps=1)
    made = pipeline(prompts, clip, n=2, steps=1)
    assert [facts | {"batch": one.provenance["batch"]} for facts, one in zip(known, made, strict=True)] == [
        one.provenance for one in made
    ]
    assert not is_same_clip(known[0], known[1]) and is_same_clip(known[0], made[0].provenance)


def test_one_clip_is_saved_and_shown_as_such(pipeline, tmp_path, monkeypatch):
    import sys
    from types import ModuleType

    made = pipeline(None, steps=1)
    assert made.save(tmp_path / "a.mp4") == tmp_path / "a.mp4"
    with pytest.raises(ValueError, match=r"save: want one clip, got 2; take one of them, such as \[0\]"):
        pipeline(None, n=2, steps=1).save(tmp_path / "b.mp4")

    shown, notebook = [], ModuleType("IPython.display")
    notebook.HTML, notebook.display = str, shown.append
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    made.show()
    [html] = shown
    data = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    assert html.startswith("<video controls") and data == (tmp_path / "a.mp4").read_bytes()
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(RuntimeError, match="show: want IPython .* got none; save writes an mp4"):
        made.show()
