"""Every example configuration loads, and the two stages of a system fit each other."""

from pathlib import Path

import pytest

from pavdit.baselines import find_system
from pavdit.config import load_run, parse_as, parse_run, read_run
from pavdit.train.adapted import backbone_model

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
OURS = [path for path in CONFIGS if read_run(path).get("system") is None]


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_it_loads_and_names_its_run_after_itself(path):
    tree = read_run(path)
    config = parse_run(tree, str(path), backbone_model(tree))
    assert config.train.run_dir == Path("runs") / path.stem
    stages = {"generator": path.stem.endswith("-generator"), "adapter": path.stem.startswith("adapter-")}
    assert config.train.stage == next((stage for stage, named in stages.items() if named), "autoencoder")


@pytest.mark.parametrize("path", [p for p in CONFIGS if p not in OURS], ids=lambda path: path.stem)
def test_a_sibling_systems_loads_and_names_its_run_after_itself(path):
    tree = read_run(path)
    config = parse_as(find_system(tree["system"], str(path)).run, tree, str(path))
    assert config.train.run_dir == Path("runs") / path.stem


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p.stem.endswith("-generator")], ids=lambda path: path.stem
)
def test_a_generator_builds_on_the_autoencoder_of_its_name(path):
    generator = load_run(path)
    autoencoder = load_run(path.with_name(path.name.replace("-generator", "")))
    assert generator.train.autoencoder == autoencoder.train.run_dir
    assert generator.model.architecture("autoencoder") == autoencoder.model.architecture("autoencoder")
    assert (generator.data.path, generator.data.num_clips, generator.data.held_out) == (
        autoencoder.data.path,
        autoencoder.data.num_clips,
        autoencoder.data.held_out,
    )


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p.stem.endswith("-stage2")], ids=lambda path: path.stem
)
def test_a_second_stage_goes_on_from_the_first_of_its_name(path):
    second, first = load_run(path), load_run(path.with_name(path.name.replace("-stage2", "")))
    assert second.train.first_stage == first.train.run_dir and first.train.first_stage is None
    assert second.model.architecture("autoencoder") == first.model.architecture("autoencoder")
    assert second.data == first.data
