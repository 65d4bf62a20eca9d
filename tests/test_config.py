"""Configuration: presets, merging, and one-line errors."""

import pytest
from pydantic import ValidationError

from pavdit.config import PRESETS, ConfigError, ModelConfig, load_run, parse_run

RUN = {
    "model": {"preset": "tiny"},
    "data": {"num_clips": 4},
    "train": {"stage": "autoencoder", "run_dir": "runs/x", "num_steps": 3},
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    config = PRESETS[name]()
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_heads_scale_with_width():
    tiny, xl = PRESETS["tiny"](), PRESETS["xl"]()
    assert (tiny.mdsa.num_heads, tiny.mdsa.projector_num_heads, tiny.mdsa.fusion_num_heads) == (2, 1, 2)
    assert (xl.mdsa.num_heads, xl.mdsa.projector_num_heads, xl.mdsa.fusion_num_heads) == (8, 4, 6)
    assert (xl.stdit.num_heads, xl.stdit.head_dim) == (18, 64)


def test_grids_and_mel_patches():
    assert PRESETS["xl"]().grid == (16, 32, 32)
    assert PRESETS["xl"]().mel_patch == (8, 1)
    assert PRESETS["tiny"]().mel_patch == (8, 4)


def test_a_preset_is_overridden_key_by_key():
    run = parse_run({**RUN, "model": {"preset": "tiny", "mdsa": {"width": 64}}})
    assert (run.model.mdsa.width, run.model.mdsa.encoder_depth) == (64, 3)


def test_uniforms_setting_is_a_config():
    clip = {"num_frames": 68, "fps": 17, "sample_rate": 16320}
    run = parse_run({**RUN, "model": {"preset": "xl", "clip": clip}})
    assert run.model.clip.hop_length == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"preset": "huge"}}, "want one of tiny, small, medium, base, xl, got 'huge'"),
        ({"model": {"preset": "tiny", "mdsa": {"widht": 3}}}, "model.mdsa.widht: Extra inputs"),
        ({"model": {"preset": "tiny", "clip": {"fps": 17}}}, "next rate that works is 16320"),
        ({"model": {"preset": "tiny", "clip": {"num_frames": 6}}}, "multiples of 4"),
        ({"model": {"preset": "tiny", "clip": {"height": 36}}}, "multiples of 2 \\* patch_size"),
        ({"model": {"preset": "tiny", "mel": {"n_mels": 60}}}, "n_mels a multiple of H' = 8"),
        ({"model": {"preset": "tiny", "mel": {"f_max_hz": 9000}}}, "f_max_hz <= sample_rate / 2 = 8000"),
        ({"model": {"preset": "tiny", "mdsa": {"bi_block": [3, 8, 8]}}}, "bi_block to divide the grid"),
        ({"model": {"preset": "tiny", "stdit": {"num_heads": 5}}}, "num_heads"),
        ({"data": {"kind": "folder"}}, "want path for kind 'folder'"),
        ({"data": {"num_clips": 4, "held_out": 4}}, "held_out < num_clips"),
        ({"train": {**RUN["train"], "stage": "generator"}}, "want autoencoder"),
        ({"train": {**RUN["train"], "num_steps": "many"}}, "train.num_steps: .*got 'many'"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_run({**RUN, **changes})
    assert "\n" not in str(caught.value)


def test_a_config_is_frozen():
    with pytest.raises(ValidationError):
        PRESETS["tiny"]().mel.n_mels = 3


def test_assignments_reach_into_sections(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: {preset: tiny}\ndata: {num_clips: 4}\ntrain: {stage: autoencoder, run_dir: r, num_steps: 3}\n"
    )
    run = load_run(path, ("train.num_steps=7", "model.mdsa.gcm_attn=false"))
    assert (run.train.num_steps, run.model.mdsa.gcm_attn) == (7, False)


@pytest.mark.parametrize(
    ("text", "assignment", "message"),
    [
        (None, (), "no such file"),
        ("a: [", (), "readable YAML"),
        ("- 1", (), "want a mapping at the top, got list"),
        ("model: {preset: tiny}", ("train.steps",), "want key.key=value, got 'train.steps'"),
        ("model: 3", ("model.mdsa.width=3",), "model is a value"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, text, assignment, message):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_run(path, assignment)
