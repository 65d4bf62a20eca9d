"""Trained runs of the smallest system, shared by the tests that only read them."""

import pytest


@pytest.fixture(scope="session")
def nano_autoencoder_run(tmp_path_factory):
    """A run directory with two checkpoints of stage 1."""
    from nano import nano_run, quiet_console

    from pavdit.train.run import run_training

    run_dir = tmp_path_factory.mktemp("nano") / "autoencoder"
    run_training(nano_run(run_dir), console=quiet_console())
    return run_dir


@pytest.fixture(scope="session")
def nano_generator_run(nano_autoencoder_run):
    """A run directory with checkpoints of stage 2, trained on every task."""
    from nano import EVERY_TASK, nano_run, quiet_console

    from pavdit.train.run import run_training

    run_dir = nano_autoencoder_run.with_name("generator")
    config = nano_run(
        run_dir, "generator", autoencoder=nano_autoencoder_run, tasks=EVERY_TASK, learning_rate=0.01
    )
    run_training(config, console=quiet_console())
    return run_dir


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory):
    """A folder with a T5 encoder, 32 wide, and its tokenizer."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    from tiny_t5 import write_tiny_t5

    return write_tiny_t5(tmp_path_factory.mktemp("text") / "t5")
