"""Bundled weights: found by name, and carried by what is installed."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pavdit import weights
from pavdit.clip import DataError
from pavdit.pipeline import Pipeline
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.export import export

ROOT = Path(__file__).parent.parent
BUILD = """
import setuptools.build_meta as build
print(build.build_sdist("made"), build.build_wheel("made"))
"""


def test_a_name_means_what_is_bundled_unless_it_is_a_path(nano_generator_run, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    made = export(open_checkpoint(nano_generator_run), tmp_path / "weights" / "nano-16")
    assert Pipeline.from_pretrained("nano-16", device="cpu").model_hash == made.model_hash
    (tmp_path / "nano-16").mkdir()
    assert weights.find_weights("nano-16") == Path("nano-16")


@pytest.mark.parametrize(
    ("bundled", "said"), [(["nano-16", "nano-8"], "nano-16, nano-8"), ([], "this copy of pavdit has none")]
)
def test_what_is_neither_is_said_in_one_line(tmp_path, monkeypatch, bundled, said):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    for name in bundled:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    want = f"bounce-64: want a checkpoint or run directory, or bundled weights by name ({said}), got neither"
    with pytest.raises(DataError) as caught:
        Pipeline.from_pretrained("bounce-64", device="cpu")
    assert str(caught.value) == want


def test_sdist_and_wheel_carry_them(tmp_path):
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CMakeLists.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("pavdit/weights", "pavdit/config", "kernels", "csrc/include"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pavdit" / "__init__.py").touch()
    (tmp_path / "pavdit" / "weights" / "some").mkdir()
    for name in ("manifest.json", "ema-00001-of-00002.safetensors", "README.md"):
        (tmp_path / "pavdit" / "weights" / "some" / name).touch()
    env = os.environ | {"PAVDIT_NATIVE": "OFF"}
    run = subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    sdist, wheel = (tmp_path / "made" / name for name in run.stdout.split()[-2:])
    want = {
        f"pavdit/weights/some/{name}"
        for name in ("manifest.json", "ema-00001-of-00002.safetensors", "README.md")
    }
    with zipfile.ZipFile(wheel) as file:
        assert want <= set(file.namelist())
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert want | {"CMakeLists.txt", "csrc/include/checks.h"} <= names


@pytest.mark.parametrize("name", weights.bundled_names())
def test_what_is_bundled_is_whole_small_and_understands_the_readme(name):
    saved = open_checkpoint(weights.find_weights(name))
    sizes = [record.size for file, record in saved.files.items() if file.endswith(".safetensors")]
    assert max(sizes) <= 16e6 and sum(sizes) <= 32e6
    assert (saved.path / "README.md").stat().st_size > 500, "a model card"
    pipeline = Pipeline.from_pretrained(name, device="cpu")
    for prompt in ("a glass ball hits the wall", "a small metal ball bounces on the floor"):
        [facts] = pipeline.provenance(prompt, seed=1)
        assert (facts["model"], facts["checkpoint"]) == (saved.model_hash, name)
