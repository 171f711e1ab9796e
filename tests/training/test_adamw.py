"""AdamW without torch's class around it: same bits. Networks are built and trained without torch's compiler."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from cdtl_core.training.adamw import AdamW, Group

_FIT = """
import sys
import numpy as np, torch
from cdtl_core.config import ModelConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.model import build_classifier
from cdtl_core.training.train import fit
model = build_classifier(ModelConfig(backbone="test_efficientnet", weights="random"), 2, 32)
pixels, numbers = np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), np.uint8), np.arange(8)
config = TrainConfig(steps=2, batch_size=4)
fitted = fit(model, Fold(pixels, numbers, numbers % 2, numbers), config, epoch=0, rng=np.random.default_rng(0),
             device=torch.device("cpu"))
print(fitted.steps, "torch._dynamo" in sys.modules)
from cdtl_core.models.libraries import torchvision
print(tuple(torchvision.ops.roi_align(torch.rand(1, 3, 8, 8), [torch.zeros(1, 4)], 2).shape))
compiled = torch.compile(torch.nn.Identity(), backend="eager")
print(compiled(torch.ones(1)).item(), "torch._dynamo" in sys.modules)
"""


def test_its_steps_have_the_bits_of_torchs_class() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    net, rates = net.to(memory_format=torch.channels_last), (1e-3, 4e-3)
    twin = copy.deepcopy(net)
    own = AdamW([Group(list(net[at].parameters()), lr) for at, lr in zip((0, 3), rates, strict=True)], 0.01)
    groups = [{"params": list(twin[at].parameters()), "lr": lr} for at, lr in zip((0, 3), rates, strict=True)]
    reference = torch.optim.AdamW(groups, weight_decay=0.01)
    for step in range(5):
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((net, own), (twin, reference)):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            if step == 2:
                model[0].bias.grad = None  # a parameter without a gradient keeps its value and its state
            optimizer.step()
        assert all(one.equal(other) for one, other in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.ci
def test_building_and_training_do_not_import_torchs_compiler_which_still_works() -> None:
    done = subprocess.run([sys.executable, "-c", _FIT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 False", "(1, 3, 2, 2)", "1.0 True"]
