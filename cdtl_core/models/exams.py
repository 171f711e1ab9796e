"""Several images of each exam in a batch, and how their features become one: mean, max, log-sum-exp, attention.

A batch in which each exam has one image is a plain tensor. `Exams` takes its place where an exam may have several: the
images of all exams one after the other, so no image is padding. With one image in an exam all poolings return its
features, to the last bit.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear, normalize

from cdtl_core.config import Pooling

__all__ = ["Attention", "Batch", "ExamPooling", "Exams", "image_weights", "pooling_of"]

_SHARPNESS = 8.0
"""Of the log-sum-exp: features of images differ by about a tenth. A power of two, so that one image stays exact."""
_ATTENTION_WIDTH = 64


@dataclass(frozen=True, eq=False)
class Exams:
    """Images, or their features, of several exams.

    Attributes:
        images: N ..., the images of the first exam first.
        lengths: Number of images of each exam, U, each 1 or more.
    """

    images: torch.Tensor
    lengths: Sequence[int]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, chosen: slice) -> "Exams":
        """Return some exams, as a batch of images is sliced."""
        start, end, _ = chosen.indices(len(self))
        first = sum(self.lengths[:start])
        lengths = self.lengths[start : max(start, end)]
        return Exams(self.images[first : first + sum(lengths)], lengths)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    @functools.cached_property
    def _exam(self) -> torch.Tensor:
        """Number of each image's exam, N."""
        numbers = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return torch.from_numpy(numbers).to(self.images.device)

    def map(self, compute: Callable[[torch.Tensor], torch.Tensor]) -> "Exams":
        """Return what a function of the images N ... gives, as the same exams."""
        return replace(self, images=compute(self.images))

    def to(self, *args: object, **kwargs: object) -> "Exams":
        """Return the exams on another device, or in another type."""
        return self.map(lambda images: images.to(*args, **kwargs))  # type: ignore[call-overload]

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of the images for a stream's work."""
        self.images.record_stream(stream)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over each exam's images, U ..., of values N ...."""
        zeros = values.new_zeros(len(self), *values.shape[1:])
        return zeros.index_add(0, self._exam, values)

    def highest(self, values: torch.Tensor) -> torch.Tensor:
        """Return the largest value over each exam's images, U D, of values N D."""
        lowest = values.new_full((len(self), values.shape[1]), -torch.inf)
        return lowest.scatter_reduce(0, self._exam[:, None].expand_as(values), values, "amax", include_self=False)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over each exam's images, U D, of values N D."""
        return self.total(values) / torch.tensor(self.lengths, dtype=values.dtype, device=values.device)[:, None]

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Return the value of each exam, U ..., for each of its images, N ...."""
        return values[self._exam]

    def softmax(self, values: torch.Tensor) -> torch.Tensor:
        """Return the softmax of values N D over the images of each exam; the sum over an exam is 1."""
        risen = (values - self.spread(self.highest(values.detach()))).exp()
        return risen / self.spread(self.total(risen))


Batch = torch.Tensor | Exams
"""Images or features: B ... with one image for each exam, or exams with any number of them."""


class ExamPooling(nn.Module):
    """Turns the features of an exam's images into one: the mean.

    Every pooling also says how much each image counts. Its weights are those of the sum ``z_d = sum_i w_id h_id`` that
    the pooled features are, or, for log-sum-exp, of its gradient.
    """

    def forward(self, exams: Exams) -> torch.Tensor:
        """Features N D of the images of U exams to U D."""
        return exams.mean(exams.images)

    def weights(self, exams: Exams) -> torch.Tensor:
        """Return the weight of each image in each feature, N D or N 1; they sum to 1 over an exam."""
        return exams.softmax(torch.zeros_like(exams.images[:, :1]))


class _Max(ExamPooling):
    """The largest value of each feature."""

    def forward(self, exams: Exams) -> torch.Tensor:
        return exams.highest(exams.images)

    def weights(self, exams: Exams) -> torch.Tensor:
        wins = (exams.images == exams.spread(exams.highest(exams.images))).to(exams.images.dtype)
        return wins / exams.spread(exams.total(wins))


class _LogSumExp(ExamPooling):
    """``log(mean(exp(r h))) / r``: near the mean for small differences between images, near the max for large ones.

    Source: Pinheiro and Collobert 2015, eq. (6).
    """

    def forward(self, exams: Exams) -> torch.Tensor:
        most = exams.highest(exams.images.detach())
        risen = (_SHARPNESS * (exams.images - exams.spread(most))).exp()
        return most + exams.mean(risen).log() / _SHARPNESS

    def weights(self, exams: Exams) -> torch.Tensor:
        return exams.softmax(_SHARPNESS * exams.images)


class Attention(ExamPooling):
    """A weighted mean; a small gated network gives each image its weight from its features.

    What is trained starts at zero, so it is the same at every site without being sent, and all images of an exam count
    equally at first. The two layers behind the weight are added to constant random ones, since from zero they could not
    learn.

    Source: Ilse et al. 2018, eq. (9). Differs: it sees features at unit length, whatever the backbone.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.content = nn.Linear(num_features, _ATTENTION_WIDTH)
        self.gate = nn.Linear(num_features, _ATTENTION_WIDTH)
        self.score = nn.Linear(_ATTENTION_WIDTH, 1, bias=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        for name in ("content", "gate"):
            drawn = _constants(name, _ATTENTION_WIDTH, num_features)
            self.register_buffer(f"{name}_start", drawn, persistent=False)
        self.content_start: torch.Tensor
        self.gate_start: torch.Tensor

    def forward(self, exams: Exams) -> torch.Tensor:
        """Features N D of the images of U exams to U D."""
        return exams.total(self.weights(exams) * exams.images)

    def weights(self, exams: Exams) -> torch.Tensor:
        """Return the weight of each image, N 1."""
        seen = normalize(exams.images, dim=1)
        content = linear(seen, self.content.weight + self.content_start, self.content.bias).tanh()
        gate = linear(seen, self.gate.weight + self.gate_start, self.gate.bias).sigmoid()
        return exams.softmax(self.score(content * gate))


def pooling_of(name: Pooling, num_features: int) -> ExamPooling:
    """Return the pooling of a setting.

    Args:
        name: `model.pooling`.
        num_features: D.
    """
    if name == "attention":
        return Attention(num_features)
    return {"mean": ExamPooling, "max": _Max, "lse": _LogSumExp}[name]()


def image_weights(pooling: ExamPooling, features: Exams) -> torch.Tensor:
    """Return the weight of each image in its exam's decision, N: the mean over features; the sum over an exam is 1."""
    return pooling.weights(features).mean(dim=1)


def _constants(name: str, rows: int, columns: int) -> torch.Tensor:
    """Return numbers of variance 1 that depend on the name and the shape alone, on every machine and version."""
    drawn = np.frombuffer(hashlib.shake_128(f"{name}/{rows}/{columns}".encode()).digest(4 * rows * columns), "<u4")
    uniform = (drawn.astype(np.float64) + 0.5) / 2**32
    return torch.from_numpy((12**0.5 * (uniform - 0.5)).reshape(rows, columns).astype(np.float32))
