"""Every `pavdit` command and every line of Python in the README runs as it stands, on a small system."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from pavdit.cli.main import main
from pavdit.clip import ClipSpec
from pavdit.data.bounce import BounceClips
from pavdit.media import write_clip

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SMALLER = (
    "data.held_out=1 data.num_clips=8 train.num_steps=2 train.batch_size=2 train.num_workers=0 "
    "model.clip.num_frames=4 model.clip.height=16 model.clip.width=16 model.mel.n_mels=16 "
    "model.mdsa.width=32 model.mdsa.encoder_depth=1 model.mdsa.decoder_depth=1 model.mdsa.projector_depth=1 "
    "model.mdsa.fusion_num_heads=1 model.stdit.width=32 model.stdit.depth=1 model.stdit.num_heads=2 "
    "model.flow.num_steps=2"
)
"""Makes a run of any preset last a second."""


def blocks() -> list[tuple[str, str]]:
    """Language and text of every block, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """The `pavdit` lines, split as a shell would."""
    lines = [line for line in block.splitlines() if line.startswith("pavdit ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def run(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands, but for sizes and steps."""
    is_run = any(word.endswith(".yaml") for word in command)
    few = ["--steps", "1"] if command[0] == "generate" and "--checkpoint" not in command else []
    if command[0] == "evaluate" and "--self-test" not in command:
        few = ["--steps", "1", "--n", "2", "--bootstrap", "2", "--training-clips", "2"]
    extra = ["--set", *SMALLER.split()] if is_run else few
    assert main([*command, *extra]) == 0, f"pavdit {' '.join(command)}: {capsys.readouterr().err}"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A directory with what a reader would have: the configurations and some clips."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    spec = ClipSpec(num_frames=16, height=32, width=32)
    clips = BounceClips(4, spec)
    for i, name in enumerate(("rain", "rain", "drum", "drum")):
        (tmp_path / "recordings" / name).mkdir(parents=True, exist_ok=True)
        write_clip(clips[i], tmp_path / "recordings" / name / f"{i}.mp4")
    shutil.copy(tmp_path / "recordings" / "drum" / "3.mp4", tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_runs_in_its_order(workplace, capsys):
    for language, block in blocks():
        if language == "python":
            exec(block.replace("seed=1", "seed=1, steps=1"), {})
        for command in commands(block):
            run(command, capsys)
    assert len(list((workplace / "rain").glob("*.mp4"))) == 4
    for made in ("new-sound/rain-seed-0000.mp4", "new-pictures/rain-seed-0000.mp4", "dog.mp4"):
        assert (workplace / made).is_file(), made
    assert (workplace / "same.mp4").read_bytes() == (workplace / "x.mp4").read_bytes()
    assert (workplace / "again.mp4").stat().st_size > 0


def test_every_make_target_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    lines = [block for _, block in blocks()] + (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    for target in re.findall(r"^make ([\w-]+) +#", "\n".join(lines), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_files_it_points_to_exist():
    for name in re.findall(r"`((?:pavdit|configs|csrc)/[\w./-]+)`", README):
        assert (ROOT / name).exists(), name
