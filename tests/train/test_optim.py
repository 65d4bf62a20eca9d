import pytest
import torch
from nano import nano_run
from torch import nn

from pavdit.train.optim import Descent, decayed_rate


def config(tmp_path, **train):
    return nano_run(tmp_path, **train).train


def test_rate_warms_up_then_falls_as_a_cosine(tmp_path):
    train = config(tmp_path, num_steps=100, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=4)
    assert decayed_rate(train, 1.0, 0) == pytest.approx(0.25)
    assert decayed_rate(train, 1.0, 50) == pytest.approx(0.55)
    assert decayed_rate(train, 1.0, 100) == pytest.approx(0.1)


def test_rate_stays_without_a_final_one(tmp_path):
    assert decayed_rate(config(tmp_path, learning_rate=0.5, num_steps=10), 0.5, 9) == 0.5


def test_rate_follows_the_clock_where_it_is_ahead(tmp_path):
    train = config(
        tmp_path, num_steps=100, learning_rate=1.0, final_learning_rate=0.5, time_limit_seconds=10.0
    )
    assert decayed_rate(train, 1.0, 1, seconds=10.0) == pytest.approx(0.5)
    assert decayed_rate(train, 1.0, 100, seconds=0.0) == pytest.approx(0.5)


def test_another_rate_decays_in_the_same_proportion(tmp_path):
    train = config(tmp_path, num_steps=100, learning_rate=1.0, final_learning_rate=0.1)
    assert decayed_rate(train, 0.2, 100) == pytest.approx(0.02)


def test_state_comes_back_by_name(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    descent = Descent(model, config(tmp_path))
    loss = model[1](torch.ones(1, 2)).sum()  # the first layer has no gradient and so no state
    loss.backward()
    descent.set_rate(0.5)
    descent.step(loss)
    tensors = descent.tensors()
    assert sorted(tensors) == sorted(
        f"1.{p}/{k}" for p in ("weight", "bias") for k in ("exp_avg", "exp_avg_sq", "step")
    )
    other = Descent(model, config(tmp_path))
    other.set_rate(7.0)
    other.load(tensors)
    again = other.tensors()
    assert all(torch.equal(tensors[key], again[key]) for key in tensors)
    assert other.optimizer.param_groups[0]["lr"] == 7.0


def test_a_step_is_that_of_clipped_adamw(tmp_path):
    torch.manual_seed(0)
    one, other = nn.Linear(4, 3), nn.Linear(4, 3)
    other.load_state_dict(one.state_dict())
    descent = Descent(one, config(tmp_path, gradient_clip=0.1, weight_decay=0.01))
    plain = torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.01)
    descent.set_rate(0.01)
    for _ in range(3):
        x = torch.randn(5, 4)
        loss = one(x).square().mean()
        loss.backward()
        norm = descent.step(loss)
        other(x).square().mean().backward()
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(other.parameters(), 0.1))
        assert norm > 0.1
        plain.step()
        plain.zero_grad()
    for got, want in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
