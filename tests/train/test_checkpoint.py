"""A checkpoint is whole or absent, and says what is wrong with it in one line."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nano import nano, nano_run
from torch import nn

from pavdit import files
from pavdit.config import MDSAConfig
from pavdit.train import checkpoint
from pavdit.train.checkpoint import CheckpointError

SAVE_FOREVER = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from nano import nano_run
from pavdit.train import checkpoint
run = Path(sys.argv[1])
checkpoint.sweep(run)
found, _ = checkpoint.latest(run)
step = found.step if found else 0
print("go", flush=True)
while True:
    step += 1
    weights = {{f"w{{i}}": torch.full((512, 512), float(step)) for i in range(4)}}
    tensors = {{"model": weights, "ema": weights}}
    temporary = checkpoint.begin(run, step)
    checkpoint.commit(temporary, step, tensors=tensors, state={{}}, config=nano_run(run))
    checkpoint.prune(run, 2)
"""


def save(run_dir, step, value=None, **options):
    tensors = {"ema": {"w": torch.full((2,), float(step if value is None else value))}}
    temporary = checkpoint.begin(run_dir, step)
    return checkpoint.commit(
        temporary, step, tensors=tensors, state={"seconds": 1.0}, config=nano_run(run_dir), **options
    )


def test_what_is_saved_comes_back(tmp_path):
    path = save(tmp_path, 7)
    found = checkpoint.open_checkpoint(tmp_path)
    assert (found.path, found.step, found.state) == (path, 7, {"seconds": 1.0})
    assert found.config == nano_run(tmp_path)
    assert torch.equal(found.tensors("ema")["w"], torch.full((2,), 7.0))
    assert checkpoint.open_checkpoint(path) == found


def test_a_saved_step_is_never_written_again(tmp_path):
    save(tmp_path, 7)
    with pytest.raises(FileExistsError, match="want a step that is not saved yet"):
        save(tmp_path, 7, value=8)
    assert checkpoint.open_checkpoint(tmp_path).tensors("ema")["w"][0] == 7


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_the_latest_is_the_highest_step_that_verifies(tmp_path, damage):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    target = path / "ema.safetensors"
    if damage == "flip":
        data = bytearray(target.read_bytes())
        data[-1] ^= 1
        target.write_bytes(bytes(data))
    elif damage == "cut":
        os.truncate(target, target.stat().st_size - 1)
    elif damage == "remove":
        target.unlink()
    else:
        (path / "manifest.json").write_text("{")
    found, damaged = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 1 and damaged == [path]
    with pytest.raises(CheckpointError, match=rf"{path}.*: want .*, got "):
        checkpoint.open_checkpoint(path)


@pytest.mark.parametrize("what", ["nothing", "a file", "none", "1 damaged one"])
def test_no_checkpoint_is_said_in_one_line(tmp_path, what):
    path = tmp_path / "run"
    if what == "a file":
        path.write_text("")
    elif what != "nothing":
        path.mkdir()
    if what == "1 damaged one":
        (path / "step-00000001").mkdir()
    with pytest.raises(CheckpointError, match=rf"{path}: want a checkpoint.*, got {what}"):
        checkpoint.open_checkpoint(path)


def newest_step(run_dir):
    return max((int(path.name.removeprefix("step-")) for path in run_dir.glob("step-*")), default=0)


def test_kill_9_in_the_middle_of_saving_leaves_the_newest_loadable(tmp_path):
    script = SAVE_FOREVER.format(tests=str(Path(__file__).parent.parent))
    last = 0
    for delay in (0.02, 0.11, 0.17):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        process.stdout.readline()
        while delay > 0.1 and newest_step(tmp_path) <= last:  # however slow the machine is, it has saved
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found, damaged = checkpoint.latest(tmp_path)
        assert not damaged
        if found is None:
            assert last == 0
            continue
        assert found.step >= last
        assert all(w.eq(found.step).all() for w in found.tensors("model").values())
        last = found.step
    assert last > 0, "no save was fast enough to test anything"
    checkpoint.sweep(tmp_path)
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_rest(tmp_path, monkeypatch):
    save(tmp_path, 1)
    write, calls = files.write_durably, []

    def full(path, chunks):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, chunks)

    monkeypatch.setattr(files, "write_durably", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.open_checkpoint(tmp_path).step == 1


def test_pruning_keeps_the_newest(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


def test_weights_of_another_shape_are_listed():
    got = {"0.weight": torch.zeros(2, 2), "1.weight": torch.zeros(1), "0.bias": torch.zeros(3)}
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with pytest.raises(
        CheckpointError,
        match=r"^x: want the 4 tensors of this architecture, got 1 missing \(1\.bias\), "
        r"2 of another shape \(0\.weight \(2, 2\) instead of \(3, 3\), 1\.weight \(1,\) instead of \(3,\)\)$",
    ):
        checkpoint.load_weights(module, got, "x")


def test_another_architecture_is_named_by_its_options(tmp_path):
    save(tmp_path, 1)
    found = checkpoint.open_checkpoint(tmp_path)
    want = nano(mdsa=MDSAConfig(**(nano().mdsa.model_dump() | {"width": 64, "kl": False})))
    with pytest.raises(
        CheckpointError, match=r"want an autoencoder with mdsa\.width 64, got mdsa\.width 32$"
    ):
        checkpoint.require_architecture(found, want, "autoencoder")


def test_options_of_training_are_no_architecture(tmp_path):
    save(tmp_path, 1)
    found = checkpoint.open_checkpoint(tmp_path)
    want = nano(mdsa=MDSAConfig(**(nano().mdsa.model_dump() | {"kl": False, "adversarial": False})))
    checkpoint.require_architecture(found, want, "generator")


def test_a_checkpoint_of_an_earlier_version_is_not_taken_for_a_damaged_one(tmp_path):
    save(tmp_path, 3)
    path = save(tmp_path, 7) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest | {"format": "pavdit/1"}))
    with pytest.raises(checkpoint.OtherCheckpointError, match="want format pavdit/2, got pavdit/1"):
        checkpoint.latest(tmp_path)
