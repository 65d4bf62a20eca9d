"""Several ranks: each takes its share of an update's draws, all stop at one step, the first one speaks."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from nano import nano, nano_run

from pavdit.config import ConfigError
from pavdit.data.bounce import BounceClips
from pavdit.train import parallel
from pavdit.train.autoencoder import AutoencoderStage
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.parallel import WHOLE, Part, own_parts
from pavdit.train.ranks import Agreement, on_first


@pytest.mark.parametrize(("count", "ranks"), [(1, 1), (1, 4), (4, 1), (2, 2)])
def test_parts_of_all_ranks_are_the_batch(monkeypatch, count, ranks):
    rows = []
    for rank in range(ranks):
        monkeypatch.setattr(parallel, "rank_and_ranks", lambda rank=rank: (rank, ranks))
        rows += [part.rows(8) for part in own_parts(8, count)]
    assert sorted(i for r in rows for i in range(8)[r]) == list(range(8))


def test_a_batch_that_cannot_be_split_is_refused(monkeypatch):
    monkeypatch.setattr(parallel, "rank_and_ranks", lambda: (0, 3))
    with pytest.raises(ConfigError, match=r"train.batch_size: want a multiple of .* = 2 \* 3, got 8$"):
        own_parts(8, 2)


@pytest.mark.parametrize(("count", "ranks"), [(2, 1), (2, 2)])
def test_the_mean_of_the_parts_is_the_loss_of_the_whole_batch(tmp_path, count, ranks):
    clips = BounceClips(9, nano().clip)

    def losses(parts):
        torch.manual_seed(0)  # the same weights on every rank
        config = nano_run(tmp_path, batch_size=4, accumulate=count)
        stage = AutoencoderStage(config, clips, clips, torch.device("cpu"))
        # step 3 misses a stream of some samples
        return torch.stack(
            [torch.stack(list(stage.loss(step, p).values())) for step in (0, 3) for p in parts]
        )

    parts = [losses([Part(i, count, rank, ranks) for i in range(count)]) for rank in range(ranks)]
    means = torch.stack(parts).unflatten(1, (2, count)).mean((0, 2))
    torch.testing.assert_close(means, losses([WHOLE]))


def test_alone_nothing_is_exchanged():
    agree = Agreement(3.0)
    assert agree(True, 5.0) == (True, 5.0)
    assert on_first(lambda: 7) == 7
    with pytest.raises(OSError, match="No space left") as caught:
        on_first(lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    assert caught.value.errno == errno.ENOSPC


def test_a_signal_to_one_rank_saves_one_step_on_all(tmp_path):
    config = nano_run(tmp_path / "a", num_steps=10**6, checkpoint_every=10**6)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(2):
        torchrun = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-m", "pavdit.cli", "train", str(path)],
                stderr=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
                env=os.environ | torchrun | {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
            )
        )
    log = tmp_path / "a" / "log.jsonl"
    while all(process.poll() is None for process in ranks) and not (
        log.exists() and '"loss"' in log.read_text()
    ):
        time.sleep(0.05)
    ranks[1].send_signal(signal.SIGUSR1)
    said = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [75, 75], said
    [saved] = (tmp_path / "a").glob("step-*")
    assert f"interrupted at step {open_checkpoint(saved).step}" in said[0] and "step" not in said[1]
