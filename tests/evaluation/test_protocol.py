"""Protocol files say everything, and a mistake in one is a line."""

import hashlib

import pytest
import yaml

from pavdit.clip import ClipSpec
from pavdit.config import ConfigError
from pavdit.evaluation.protocol import FOLDER, Protocol, load_protocol, protocol_names


def test_every_protocol_is_valid_and_named_as_its_file():
    assert protocol_names() == ["clean", "mmdiffusion", "pvdm", "styleganv"]
    for name in protocol_names():
        protocol, digest = load_protocol(name)
        assert protocol.name == name
        assert digest == hashlib.sha256((FOLDER / f"{name}.yaml").read_bytes()).hexdigest()
        assert protocol.spec() == ClipSpec(16, protocol.resolutions[0], protocol.resolutions[0])


def test_no_rule_has_a_default():
    assert all(field.is_required() for field in Protocol.model_fields.values())


def test_what_the_peers_differ_in():
    rules = {name: load_protocol(name)[0] for name in protocol_names()}
    assert {n: r.covariance for n, r in rules.items() if r.covariance == "n"} == {"styleganv": "n"}
    assert {n: r.reference_windows for n, r in rules.items() if r.reference_windows == "every"} == {
        "mmdiffusion": "every"
    }
    assert (rules["mmdiffusion"].fad.scale, rules["mmdiffusion"].fad.sample_rate) == (10_000, 44_100)
    assert rules["styleganv"].i3d_fit == "whole"


def test_another_resolution_is_refused():
    with pytest.raises(ConfigError, match="--resolution: want 64 or 256 in protocol mmdiffusion, got 128"):
        load_protocol("mmdiffusion")[0].spec(128)


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="--protocol: want clean, mmdiffusion, pvdm, styleganv, or a .yaml"):
        load_protocol("fid")


def test_a_file_that_leaves_something_out_is_refused(tmp_path):
    tree = yaml.safe_load((FOLDER / "clean.yaml").read_text())
    del tree["covariance"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"mine.yaml: covariance: Field required"):
        load_protocol(str(path))
