"""Regions of a stage's output."""

import torch

from cdtl_core.config import ModelConfig
from cdtl_core.models.model import build_classifier
from cdtl_core.models.pooling import pooled


def test_the_centre_and_what_surrounds_it_are_means_of_their_own_pixels() -> None:
    output = torch.ones(2, 3, 4, 4)
    output[:, :, 1:3, 1:3] = 5.0
    inner, around = pooled(output, "centre")
    assert inner.equal(torch.full((2, 3), 5.0))
    assert around.equal(torch.ones(2, 3))
    (whole,) = pooled(output, "whole")
    assert whole.equal(torch.full((2, 3), 2.0))


def test_outputs_without_room_or_place_have_one_region() -> None:
    assert len(pooled(torch.ones(2, 3, 1, 1), "centre")) == 1
    assert pooled(torch.ones(2, 5, 3), "centre")[0].shape == (2, 3)


def test_the_length_of_features_is_what_the_centre_is_bounded_by() -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="test_efficientnet", weights="random", levels=(1, 3), regions="centre")
    model = build_classifier(config, 2, 64).eval()
    features = model.features(torch.rand(4, 3, 64, 64))
    assert model.feature_length == 2.0
    assert torch.allclose(features.norm(dim=1), torch.full((4,), 2.0), atol=1e-5)
    assert features.shape[1] == model.head.in_features
