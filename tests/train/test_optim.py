import pytest
import torch
from nano import nano_run
from torch import nn

from pavdit.train.optim import build_optimizer, learning_rate, load_optimizer_tensors, optimizer_tensors


def config(tmp_path, **train):
    return nano_run(tmp_path, **train).train


def test_rate_warms_up_then_falls_as_a_cosine(tmp_path):
    train = config(tmp_path, num_steps=100, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=4)
    assert learning_rate(train, 0) == pytest.approx(0.25)
    assert learning_rate(train, 50) == pytest.approx(0.55)
    assert learning_rate(train, 100) == pytest.approx(0.1)


def test_rate_stays_without_a_final_one(tmp_path):
    assert learning_rate(config(tmp_path, learning_rate=0.5, num_steps=10), 9) == 0.5


def test_rate_follows_the_clock_where_it_is_ahead(tmp_path):
    train = config(
        tmp_path, num_steps=100, learning_rate=1.0, final_learning_rate=0.5, time_limit_seconds=10.0
    )
    assert learning_rate(train, 1, seconds=10.0) == pytest.approx(0.5)
    assert learning_rate(train, 100, seconds=0.0) == pytest.approx(0.5)


def test_state_comes_back_by_name(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = build_optimizer(model, config(tmp_path))
    model[1](torch.ones(1, 2)).sum().backward()  # the first layer has no gradient and so no state
    optimizer.step()
    tensors = optimizer_tensors(optimizer, model)
    assert sorted(tensors) == sorted(
        f"1.{p}/{k}" for p in ("weight", "bias") for k in ("exp_avg", "exp_avg_sq", "step")
    )
    other = build_optimizer(model, config(tmp_path, learning_rate=7.0))
    load_optimizer_tensors(other, model, tensors)
    again = optimizer_tensors(other, model)
    assert all(torch.equal(tensors[key], again[key]) for key in tensors)
    assert other.param_groups[0]["lr"] == 7.0
