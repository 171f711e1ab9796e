"""Canaries and their scores, against plain SGD and by hand."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from cdtl_core.privacy.canaries import alignment, draw_canaries, gradient_rows, step_weights


def test_canaries_stand_at_right_angles_and_are_longer_than_patients() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20, 3, 64)).astype(np.float16)
    canaries = draw_canaries(features, 30, 2, rng)
    lengths = np.linalg.norm(features[:, 0].astype(np.float64), axis=1)
    means = canaries.features.mean(axis=1)
    assert np.abs(means @ features[:, 0].T.astype(np.float64)).max() < 1e-9
    assert np.linalg.norm(canaries.features - means[:, None], axis=2).mean() > 3 * np.median(lengths)
    gram = means @ means.T
    assert gram == pytest.approx(np.eye(30) * (16 * np.median(lengths)) ** 2, abs=1e-9)
    assert set(canaries.labels) == {0, 1}
    assert 5 < canaries.present.sum() < 25
    assert draw_canaries(features, 100, 2, rng).features.shape == (100, 3, 64)  # more than there is room for
    assert draw_canaries(features, 0, 2, rng).features.shape == (0, 3, 64)


def test_gradient_rows_are_autograds_clipped() -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.standard_normal((4, 5)), np.array([0, 2, 1, 2])
    rows = gradient_rows(features, labels, 3, 0.7)
    for feature, label, row in zip(features, labels, rows, strict=True):
        head = torch.nn.Linear(5, 3, dtype=torch.float64)
        torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
        cross_entropy(head(torch.from_numpy(feature))[None], torch.tensor([label])).backward()
        whole = torch.cat([head.weight.grad, head.bias.grad[:, None]], dim=1)
        expected = head.weight.grad * min(1.0, 0.7 / float(whole.norm()))
        assert row == pytest.approx(expected.numpy().reshape(-1))


@pytest.mark.parametrize(("momentum", "ema"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.8)])
def test_step_weights_are_what_sgd_does(momentum: float, ema: float) -> None:
    gradients = np.random.default_rng(2).standard_normal(6)
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    sgd, mean = torch.optim.SGD([weight], lr=0.1, momentum=momentum), 0.0
    for gradient in gradients:
        weight.grad = torch.tensor([gradient])
        sgd.step()
        mean = ema * mean + (1 - ema) * weight.item()
    moved = mean if ema else weight.item()
    assert moved == pytest.approx(-0.1 * step_weights(6, momentum, ema) @ gradients)


def test_alignment_hears_who_is_in_through_others_that_are_not_at_right_angles() -> None:
    rng = np.random.default_rng(3)
    rows, present = rng.standard_normal((40, 200)), rng.random(30) < 0.5
    release = rows[:10].sum(axis=0) + rows[10:][present].sum(axis=0) + 0.5 * rng.standard_normal(200)
    scores = alignment(release, rows, 30, 0.5)
    assert scores[present].min() > scores[~present].max()
