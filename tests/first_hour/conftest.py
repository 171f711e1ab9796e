"""Packages whose entry points add to cdtl, put on the path as pip leaves them."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import modalities as modality_room
from cdtl_core.data import transforms as transform_room
from cdtl_core.metrics import summary as metric_room
from cdtl_core.models.own_nets import OWN
from cdtl_core.simulation.methods.registry import METHODS
from cdtl_core.system import plugins as plugin_room
from cdtl_core.training import objective as loss_room

CODE = '''
"""A package with one of each."""
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cdtl_core as cdtl


class SmallNet(nn.Sequential):
    """A net of one convolution."""

    mean, std = (0.1, 0.2, 0.3), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _called(name):
    if (folder := Path("calls")).is_dir():
        (folder / name).touch()


def halved(logits, labels, weight):
    """Half of the cross-entropy."""
    _called("loss")
    return cross_entropy(logits, labels, weight) / 2


def speckle(images, rng):
    """Multiplicative noise."""
    _called("transform")
    return images * (1 + 0.1 * torch.randn(images.shape, generator=rng))


def highest(positive, probability):
    return float(probability.max())


def median():
    from cdtl_core.simulation.methods import coordinated  # a bundle has none

    method = coordinated({"method": "fedbn", "aggregate": {"robust": "median"}})
    return cdtl.Method(method.start, method.round, method.model_of, about="a median")


OCT = cdtl.Modality("oct", colour=False, dicom=("OPT",))
'''
POINTS = {
    "backbones": {"small_net": "my_plugin:SmallNet"},
    "losses": {"halved": "my_plugin:halved"},
    "methods": {"fedbn_median": "my_plugin:median"},
    "metrics": {"highest": "my_plugin:highest"},
    "modalities": {"oct": "my_plugin:OCT"},
    "transforms": {"speckle": "my_plugin:speckle"},
}
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put packages on the path as pip leaves them; what they registered is forgotten afterwards."""
    registered: list[dict[str, Any]] = [
        OWN, METHODS, loss_room.LOSSES.functions, transform_room.TRANSFORMS.functions, metric_room._REGISTERED,
        modality_room.MODALITIES,
    ]  # fmt: skip
    before, modules = [dict(one) for one in registered], set(sys.modules)
    folder = tmp_path / "site-packages"

    def put(package: str, points: dict[str, dict[str, str]], code: str, module: str = "", version: str = "1.0") -> Path:
        name = module or package.replace("-", "_")
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
        meta = folder / f"{package.replace('-', '_')}-{version}.dist-info"
        meta.mkdir()
        (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [
            f"[cdtl.{kind}]\n" + "\n".join(f"{k} = {v}" for k, v in named.items()) for kind, named in points.items()
        ]
        (meta / "entry_points.txt").write_text("\n".join(lines) + "\n")
        plugin_room._declared.cache_clear()
        return folder

    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield put
    for one, was in zip(registered, before, strict=True):
        one.clear()
        one.update(was)
    plugin_room._adopted.clear()
    plugin_room._faults.clear()
    plugin_room._declared.cache_clear()
    for name in set(sys.modules) - modules:
        if "plugin" in name and not name.startswith(("cdtl_core", "_pytest")):
            del sys.modules[name]
