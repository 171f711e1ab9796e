"""A head trained on cached features without autograd takes the same steps as with autograd."""

from typing import Any

import numpy as np
import pytest
import torch

from cdtl_core.config import AugmentConfig, ModelConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.model import build_classifier, build_feature_classifier
from cdtl_core.training.inputs import Entry
from cdtl_core.training.objective import PLAIN, Mixture, Objective, Proximal
from cdtl_core.training.train import fit
from cdtl_core.training.views import Views

CPU = torch.device("cpu")
ENTRY = Entry(None, Views(2, 0, AugmentConfig()))


class General(Objective):
    """Takes the general way, with a graph."""

    def __init__(self, inner: Objective) -> None:
        self._inner = inner

    def loss(self, *batch: Any) -> torch.Tensor:
        return self._inner.loss(*batch)


@pytest.mark.parametrize("kind", ["plain", "proximal", "mixture"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_takes_the_steps_that_autograd_and_torchs_adamw_take(
    classes: int, weighted: bool, dropout: float, kind: str
) -> None:
    config = ModelConfig(backbone="test_resnet", weights="random", levels=(2, 3), dropout=dropout)
    train = TrainConfig(steps=20, batch_size=8, views=2, freeze=3, class_weighted=weighted, lr=0.01)
    rng = np.random.default_rng(0)
    whole = build_classifier(config, classes, 32)
    features = rng.normal(size=(30, 3, whole.head.in_features)).astype(np.float16)
    fold = Fold(features, np.arange(30), rng.integers(classes, size=30), np.arange(30))  # type: ignore[arg-type]
    found = []
    other = {
        "head.weight": torch.from_numpy(rng.normal(size=(classes, whole.head.in_features))).float(),
        "head.bias": torch.from_numpy(rng.normal(size=classes)).float(),
    }
    fast = {"plain": PLAIN, "proximal": Proximal(0.3, other), "mixture": Mixture(0.4, other)}[kind]
    for objective in (fast, General(fast)):
        model = build_feature_classifier(whole, config)
        model.centre.mean.copy_(torch.from_numpy(features[:, 0].astype(np.float32)).mean(dim=0))
        report = fit(
            model, fold, train, epoch=1, rng=np.random.default_rng(5), device=CPU, entry=ENTRY, objective=objective
        )
        found.append((report.loss, model.head.weight.detach().clone(), model.head.bias.detach().clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for written, taken in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(written, taken, rtol=1e-4, atol=1e-5)
    assert found[0][1].abs().max() > 0.01
