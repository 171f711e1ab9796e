"""Two classifiers of a site, own and joint, as one network."""

from dataclasses import replace

import torch
from torch import nn

from cdtl_core.federation.pool import Pool
from cdtl_core.models.exams import Batch, Exams
from cdtl_core.models.model import Classifier

__all__ = ["PooledNetwork"]


class PooledNetwork(nn.Module):
    """Images B 3 H W to the pool's logits B K; both classifiers use the same normalisation.

    Args:
        own: The site's own classifier.
        joint: The federation's classifier.
        pool: How their logits are combined.
    """

    def __init__(self, own: Classifier, joint: Classifier, pool: Pool) -> None:
        super().__init__()
        self.own, self.joint = own, joint
        self.mean, self.std = own.mean, own.std
        self._factors = [
            0.0 if standard.is_flat else pool.scale * share / standard.spread
            for standard, share in ((pool.own, 1.0), (pool.joint, pool.share))
        ]
        bias = pool.bias - sum(
            (factor * one.centre for factor, one in zip(self._factors, (pool.own, pool.joint), strict=True))
        )
        self._share = 0.0 if pool.joint.is_flat else 1.0 if pool.own.is_flat else pool.share / (1 + pool.share)
        self.register_buffer("bias", torch.tensor(bias, dtype=torch.float32))
        self.bias: torch.Tensor

    @property
    def networks(self) -> tuple[Classifier, Classifier]:
        """Own and joint classifier."""
        return self.own, self.joint

    @property
    def backbones(self) -> tuple[nn.Module, ...]:
        """Backbones of both."""
        return self.own.backbone, self.joint.backbone

    def forward(self, images: Batch) -> torch.Tensor:
        """Return logits B K."""
        return self.classify(images.map(self.features) if isinstance(images, Exams) else self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of both networks side by side, B 2D."""
        return torch.cat([network.features(images) for network in self.networks], dim=1)

    def classify(self, features: Batch) -> torch.Tensor:
        """Return logits B K of features B 2D, or of those of exams."""
        logits: torch.Tensor = self.bias
        for factor, network, half in zip(self._factors, self.networks, _halves(features), strict=True):
            found = network.classify(half)
            logits = logits + factor * (found - found.mean(dim=1, keepdim=True))
        return logits

    def weights(self, features: Exams) -> torch.Tensor:
        """Return how much each image counts in its exam's decision, N: in both networks, by the joint one's share."""
        halves = features.images.chunk(2, dim=1)
        own, joint = (
            network.weights(replace(features, images=half)) for network, half in zip(self.networks, halves, strict=True)
        )
        return own.lerp(joint, self._share)


def _halves(features: Batch) -> list[Batch]:
    """Return the features of both networks."""
    if isinstance(features, Exams):
        return [replace(features, images=half) for half in features.images.chunk(2, dim=1)]
    return list(features.chunk(2, dim=1))
