"""The network, images and steps of cdtl in plain PyTorch, shared by the arms that are not cdtl.

The draws are those of `cdtl_core.training.train`, in its order, so that the losses of a first round agree and the arms
provably do the same work.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from cdtl_core.config import AugmentConfig
from cdtl_core.data.transforms import Augmentation, augment, normalise, to_unit
from cdtl_core.models.backbones import build_backbone

__all__ = ["Images", "Job", "Net", "auroc_of", "images_of", "initial_weights_of", "open_job", "read_job"]
__all__ += ["refresh", "score", "train"]

_SCORE_BATCH = 64
_CHANGES = Augmentation(**AugmentConfig().model_dump())
Job = Mapping[str, Any]


class Net(nn.Module):
    """Backbone, dropout, linear head that starts at zero: B 3 H W to B 2."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        found = build_backbone(job["backbone"], job["size"])
        self.backbone, self.mean, self.std = found.module, found.mean, found.std
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(found.num_features, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits B 2."""
        logits: torch.Tensor = self.head(self.dropout(self.backbone(images)))
        return logits


@dataclass(frozen=True)
class Images:
    """A site's images N C H W uint8, rows and labels of each split, and its training patients."""

    pixels: np.ndarray
    rows: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    patients: int


def read_job(folder: Path) -> Job:
    """The job's note."""
    job: Job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    return job


def initial_weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The common start."""
    initial_weights: dict[str, torch.Tensor] = torch.load(folder / "initial_weights.pt", weights_only=True)
    return initial_weights


def open_job(folder: Path) -> tuple[Job, dict[str, Images], Net, list[str]]:
    """A job, its sites' images, the network with the initial weights, and the names of its batch norms' tensors."""
    job = read_job(folder)
    sites, net = {site: images_of(job, site) for site in job["sites"]}, Net(job)
    net.load_state_dict(initial_weights_of(folder), strict=False)
    found = [(prefix, module) for prefix, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return job, sites, net, [f"{prefix}.{name}" for prefix, module in found for name in module.state_dict()]


def images_of(job: Job, site: str) -> Images:
    """Read a site's images into memory."""
    note = job["sites"][site]
    pictures = [np.asarray(Image.open(file)) for file in note["files"]]
    pixels = np.stack([one[None] if one.ndim == 2 else one.transpose(2, 0, 1) for one in pictures])
    rows = {name: np.array(values, np.int64) for name, values in note["rows"].items()}
    labels = {name: np.array(values, np.int64) for name, values in note["labels"].items()}
    return Images(pixels, rows, labels, note["patients"])


def train(net: Net, images: Images, job: Job, *, site: str, round: int) -> float:
    """A site's steps of one round; the mean loss."""
    if not job["steps"]:
        return float("nan")
    rng = np.random.default_rng([job["seed"], zlib.crc32(site.encode()), round])
    torch.manual_seed(int(rng.integers(2**62)))
    net.train()
    counts = np.bincount(images.labels["train"], minlength=2)
    weight = torch.from_numpy(counts.sum() / (2 * np.maximum(counts, 1))).float()
    rate = 5e-4 / (1 + 0.1 * (round - 1))
    groups = [{"params": net.backbone.parameters(), "lr": rate}, {"params": net.head.parameters(), "lr": 4 * rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    losses = []
    for batch, labels in _batches(net, images, job, rng):
        loss = cross_entropy(net(batch), labels, weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.inference_mode()
def score(net: Net, images: Images, split: str) -> torch.Tensor:
    """Log-probabilities of a split's images."""
    net.eval()
    rows = np.array_split(images.rows[split], range(_SCORE_BATCH, len(images.rows[split]), _SCORE_BATCH))
    return torch.cat([net(_plain(net, images, some)).log_softmax(1) for some in rows])


@torch.no_grad()
def refresh(net: Net, images: Images) -> None:
    """Recompute the running statistics of the norms from all training images."""
    net.train()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    rows = images.rows["train"][np.random.default_rng(0).permutation(len(images.rows["train"]))]
    for some in np.array_split(rows, -(-len(rows) // _SCORE_BATCH)):
        net.backbone(_plain(net, images, some))
    for norm in norms:
        norm.momentum = 0.1


def auroc_of(images: Images, log_probabilities: torch.Tensor) -> float:
    """Return the AUROC of the test images."""
    from cdtl_core.metrics.metrics import auroc

    return auroc(images.labels["test"] == 1, log_probabilities[:, 1].double().numpy())


def _batches(
    net: Net, images: Images, job: Job, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    changes = torch.Generator().manual_seed(int(rng.integers(2**62)))
    need, count = job["steps"] * job["batch_size"], len(images.rows["train"])
    order = np.concatenate([rng.permutation(count) for _ in range(-(-need // count))])[:need]
    for rows in order.reshape(job["steps"], job["batch_size"]):
        changed = augment(to_unit(images.pixels[images.rows["train"][rows]]), _CHANGES, changes)
        batch = normalise(changed, net.mean, net.std).to(memory_format=torch.channels_last)
        yield batch, torch.from_numpy(images.labels["train"][rows])


def _plain(net: Net, images: Images, rows: np.ndarray) -> torch.Tensor:
    return normalise(to_unit(images.pixels[rows]), net.mean, net.std).to(memory_format=torch.channels_last)
