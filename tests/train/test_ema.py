import torch
from torch import nn

from pavdit.train.ema import Ema, ema_decay


def test_decay_warms_up():
    assert [ema_decay(0.99, torch.tensor(n, dtype=torch.float64)).item() for n in (0, 8, 10**6)] == [
        0.1,
        0.5,
        0.99,
    ]


def test_average_is_the_recurrence_and_shares_nothing():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    ema = Ema(model, 0.99)
    expected = [p.detach().clone() for p in model.parameters()]
    for n in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model[1].running_mean += 1
        ema.update(model, torch.zeros(()))
        d = min(0.99, (1 + n) / (10 + n))
        expected = [d * e + (1 - d) * p.detach() for e, p in zip(expected, model.parameters(), strict=True)]
    for got, want in zip(ema.model.parameters(), expected, strict=True):
        torch.testing.assert_close(got, want)
        assert not got.requires_grad
    assert torch.equal(ema.model[1].running_mean, torch.full((3,), 3.0))
    assert not ema.model.training and model.training
