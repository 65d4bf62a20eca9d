"""Benchmarks of whole models run as they say and measure what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from nano import nano

from benchmarks import ablations, batch_sweep, bounce, efficiency, sampler, training
from benchmarks.held_out import parts
from benchmarks.held_out.observe import Host, Observed, Source
from benchmarks.held_out.scores import ATTRIBUTES, obeys
from pavdit.clip import ClipSpec
from pavdit.data.bounce import BounceClips
from pavdit.data.bounce.recognise import Seen
from pavdit.metrics.event_sync import Detected
from pavdit.metrics.nearest import Nearest, Space, features
from pavdit.train.checkpoint import open_checkpoint

ROOT = Path(__file__).parent.parent


def test_sampler_benchmark(tmp_path: Path) -> None:
    assert "python benchmarks/sampler.py" in (ROOT / "README.md").read_text()
    found = tmp_path / "found.json"
    options = ["--preset", "tiny", "--steps", "2", "--rounds", "2", "--threads", "1", "--no-peer"]
    options += ["--tier", "fast", "--text", "8", "--json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "sampler.py"), *options, str(found)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(found.read_text())
    assert set(facts["rows"]) == {"generator", "decode", "inverse", "end to end"}
    assert all(row["ours"]["median"] > 0 for row in facts["rows"].values())
    assert facts["step"]["attention_seconds"] > 0 and facts["step"]["gemm_seconds"] > 0
    assert facts["step"]["dispatched_ours"] <= 0.6 * facts["step"]["dispatched_eager"]
    assert facts["fast"]["exact"]["latent_rms"] == 0
    assert facts["fast"]["absorbed"]["latent_rms"] < facts["fast"]["fp8"]["latent_rms"] < 0.1


def no_compiler(function: Callable[..., object], **options: object) -> Callable[..., object]:
    def call(*arguments: object, **named: object) -> object:
        raise RuntimeError("no working compiler\nlong story")

    return call


@pytest.mark.parametrize("stage", ["generator", "autoencoder"])
def test_training_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    assert "python benchmarks/training.py" in (ROOT / "README.md").read_text()
    monkeypatch.setitem(training.PRESETS, "tiny", nano)
    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(training, "matmul_speed", lambda device, dtype: 1e9)
    options = f"--preset tiny --stage {stage} --batch 4 --accumulate 2 --dtype float32 --rounds 2 --json"
    monkeypatch.setattr(sys, "argv", ["training", *options.split(), str(tmp_path / "found.json")])
    training.main()
    facts = json.loads((tmp_path / "found.json").read_text())
    assert set(facts["rows"]) == {"eager", "ours"} and facts["graph"] == "off: no CUDA"
    assert facts["failed"] == {"peer": "RuntimeError: no working compiler"}
    assert "peer    cannot: RuntimeError: no working compiler" in capsys.readouterr().out
    step = facts["step"]
    assert step["dispatched_ours"] < step["dispatched_eager"]
    for row in facts["rows"].values():
        assert row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["clips_per_second"] == pytest.approx(4e3 / row["median_ms"], rel=1e-3)
        assert row["utilisation"] == pytest.approx(3e3 * step["forward_gflop"] / row["median_ms"], abs=1e-4)


SMALLEST = (
    "data.num_clips=4 data.held_out=1 train.batch_size=2 train.dtype=float32 model.clip.num_frames=4 "
    "model.clip.height=16 model.clip.width=16 model.mel.n_mels=16 model.mdsa.width=32 "
    "model.mdsa.encoder_depth=1 model.mdsa.decoder_depth=1 model.mdsa.projector_depth=1 "
    "model.mdsa.fusion_num_heads=1 model.mdsa.discriminator.width=8 model.mdsa.discriminator.depth=1"
)


def test_ablations_train_each_variant_and_share_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    found = tmp_path / "found.json"
    arguments = [*("--steps", "2", "-o", str(tmp_path)), *("--json", str(found)), "--set", *SMALLEST.split()]
    assert ablations.main(arguments) == 0
    rows = json.loads(found.read_text())["rows"]
    switches = ("mt_self_attn", "gcm_attn", "bi_block_attn", "kl", "adversarial")
    pvdm = ("pvdm-video", "pvdm-audio")
    assert tuple(rows) == ("whole", *switches, *pvdm) and len(capsys.readouterr().out.splitlines()) > 10
    own_first = ("whole", *switches[:3], *pvdm)
    assert {path.name for path in tmp_path.glob("*-1")} == {f"{n}-1" for n in own_first}
    assert [list(rows[n]) for n in pvdm] == [
        [f"stage {i}: held_out_{s}_psnr_db" for i in (1, 2)] for s in ("video", "mel")
    ]
    for name in switches:
        config = open_checkpoint(tmp_path / f"{name}-2").config
        assert [s for s in switches if not getattr(config.model.mdsa, s)] == [name]
        assert config.train.first_stage == tmp_path / f"{name if name in switches[:3] else 'whole'}-1"
    again = ablations.main([*arguments, "--only", "whole", "kl"])
    assert again == 0 and json.loads(found.read_text())["rows"] == {n: rows[n] for n in ("whole", "kl")}


def test_efficiency_of_all_systems_beside_what_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(efficiency.PRESETS, "tiny", nano)
    options = "--preset tiny --mm-width 8 --mm-evaluations 3 --batch 1 --steps 1 --rounds 1"
    options += " --device cpu --dtype float32 --json"
    monkeypatch.setattr(sys, "argv", ["efficiency", *options.split(), str(tmp_path / "found.json")])
    efficiency.main()
    facts, said = json.loads((tmp_path / "found.json").read_text()), capsys.readouterr().out
    rows = facts["rows"]
    assert list(rows) == ["mm-diffusion", "pvdm", "ours", "ours*"]
    for row in rows.values():
        assert row["update"]["median_ms"] > 0 and row["sample"]["median_ms"] > 0
        assert row["gpu"] == "not yet measured"
    counts = {name: row["parameters_millions"] for name, row in rows.items()}
    assert counts["ours*"] == {"generator": counts["ours"]["generator"]}
    assert counts["pvdm"]["autoencoder"] < counts["ours"]["autoencoder"]
    assert facts["published"]["hardware"] == "not stated"
    assert "256²: 0.44, 17.7 (hardware not stated)" in said and "mm-ldm*" in said


def test_sweep_over_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    monkeypatch.setattr(batch_sweep, "picture", lambda path, rows, title: drawn.append(len(rows)))
    monkeypatch.setitem(sampler.PRESETS, "tiny", nano)
    options = "--preset tiny --steps 1 --rounds 1 --device cpu --batches 1 2 -o"
    monkeypatch.setattr(sys, "argv", ["batch_sweep", *options.split(), str(tmp_path)])
    batch_sweep.main()
    rows = json.loads((tmp_path / "batch-sweep-tiny.json").read_text())["samples_per_second"]
    assert [row["batch"] for row in rows] == drawn == [1, 2]
    assert all(row["ours"] > 0 and row["eager"] > 0 for row in rows)


def test_the_picture_wants_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["batch_sweep"])
    with pytest.raises(SystemExit, match=r"batch_sweep: want matplotlib .*pavdit\[bench\].*, got none"):
        batch_sweep.main()


def test_held_out_clips_are_measured_by_every_part(
    nano_generator_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    arguments = ["--checkpoint", str(nano_generator_run), "--clips", "3", "--device", "cpu", "--steps", "2"]
    assert bounce.main([*arguments, "--json", str(found)]) == 0
    facts = json.loads(found.read_text(), parse_constant=pytest.fail)
    assert (facts["num_clips"], facts["steps"], facts["dtype"]) == (3, "2", "float32")
    assert facts["model"] == open_checkpoint(nano_generator_run).model_hash
    assert list(facts["parts"]) == list(bounce.PARTS)
    table = capsys.readouterr().out.splitlines()
    assert all(part["rows"] and name in table for name, part in facts["parts"].items())
    assert facts["parts"]["copies"]["compared"] == 4  # of six clips two are held out
    assert bounce.main([*arguments, "--seconds", "0", "--parts", "t2av", "--json", str(found)]) == 0
    assert json.loads(found.read_text())["parts"] == {"t2av": {"left_out": "0 s were over"}}


def test_true_clips_pass_as_made_and_others_as_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, host = ClipSpec(num_frames=16, height=32, width=32), Host()
    pipe = SimpleNamespace(generator=None)
    held_out = parts.HeldOut(pipe, {}, host, Source(spec, "all", 5), 16, lambda: 1.0)
    for made, other in ((held_out.clips, False), ([held_out.clips[-1], *held_out.clips[:-1]], True)):
        monkeypatch.setattr(parts, "generate", lambda *arguments, made=made: made)
        held_out._samples.clear()
        rows = [row for task in (held_out.t2av, held_out.v2a, held_out.a2v) for row in task()[0]]
        if not other:
            assert len(rows) > 40 and all(row.made == row.true for row in rows)
            continue
        apart = [r for r in rows if ("given" in r.name and r.name.endswith("F1")) or "all" in r.name]
        assert len(apart) >= 8 and all(row.made < 0.7 * row.true for row in apart)
    host.close()


def test_obedience_is_judged_by_object() -> None:
    both = (Seen("metal", "bounce"), Seen("wood", "clock"))
    clip = Observed(Detected(np.zeros(0), np.zeros(0)), both, ("metal", "wood", "drum"))
    assert all(obeys(clip, both[::-1]).values())
    assert all(obeys(clip, [Seen("wood", ""), Seen("metal", "")]).values())
    swapped = obeys(clip, [Seen("metal", "clock"), Seen("wood", "bounce")])
    assert swapped == {"objects": True, "colour": True, "pitch": True, "action": True, "all": False}
    assert obeys(clip, [Seen("metal", "bounce")]) == dict.fromkeys(ATTRIBUTES, False) | {"pitch": True}


def test_a_copy_is_near_and_a_stranger_is_not() -> None:
    clips = BounceClips(12, ClipSpec(num_frames=8, height=32, width=32))
    rows = np.stack(
        [features(c.frames.numpy(), c.wave.numpy(), 16000) for c in (clips[i] for i in range(12))]
    )
    space = Space(rows, 8, torch.device("cpu"))
    mean_square = torch.pdist(space.place(rows)).square().mean().item()
    assert mean_square == pytest.approx(1, rel=1e-3)  # by what a distance is in units of
    nearest = Nearest(space, rows[:3])
    for places in (np.arange(6, 12), np.arange(1, 6)):
        nearest.meet(places, space.place(rows[places]))
    assert nearest.index[1:].tolist() == [1, 2] and nearest.distance[1:].max() < 1e-3
    assert nearest.distance[0] > 0.3
