"""The layers behind the backbone: the centre, an adapter, the pooling over an exam's images, and the head."""

import torch
from torch import nn
from torch.nn.functional import normalize

from cdtl_core.models.exams import Batch, ExamPooling, Exams, image_weights

__all__ = ["Adapter", "Centre", "End"]

_LENGTH = 4.0


class Centre(nn.Module):
    """Subtract the site's own mean from features B D and scale them to one length.

    What all images of a site share carries no information about the label. As in a norm, `mean` stays at the site. The
    length, 4, leaves the head's bias a small share of a clipped gradient.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.mean: torch.Tensor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """... D to ... D."""
        return _LENGTH * normalize(features - self.mean, dim=-1)


class Adapter(nn.Module):
    """A narrow residual layer, initially the identity: x + up(gelu(down(x))).

    Source: Houlsby et al. 2019.
    """

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(num_features, width, bias=False)
        self.up = nn.Linear(width, num_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """... D to ... D."""
        adapted: torch.Tensor = features + self.up(nn.functional.gelu(self.down(features)))
        return adapted


class End(nn.Module):
    """The layers behind the backbone: features B D, or those of exams with several images, to logits B K."""

    def __init__(
        self, centre: nn.Module, adapter: nn.Module, pooling: ExamPooling, dropout: nn.Module, head: nn.Module
    ) -> None:
        super().__init__()
        self.centre, self.adapter, self.pooling = centre, adapter, pooling
        self.dropout, self.head = dropout, head

    def forward(self, features: Batch) -> torch.Tensor:
        """Return logits B K, one row for each exam."""
        logits: torch.Tensor = self.head(self.dropout(self.pooled(features)))
        return logits

    def pooled(self, features: Batch) -> torch.Tensor:
        """Return features B D of exams: centred, adapted, and pooled over the images of each."""
        if isinstance(features, Exams):
            found: torch.Tensor = self.pooling(features.map(self._of_images))
            return found
        return self._of_images(features)

    def weights(self, features: Exams) -> torch.Tensor:
        """Return how much each image counts in its exam's decision, N; the sum over an exam is 1."""
        return image_weights(self.pooling, features.map(self._of_images))

    def _of_images(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.adapter(self.centre(features))
        return found
