"""An exam of ten thousand images is scored in bounded memory and in time that grows with the number of images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = """
import json, resource, sys, time
import numpy as np, torch
from cdtl_core.config import ModelConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.model import build_classifier
from cdtl_core.training.scoring import score, weigh

torch.set_num_threads(1)
path, count = sys.argv[1], int(sys.argv[2])
pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 1, 128, 128))
for start in range(0, count, 500):
    pixels[start : start + 500] = np.random.default_rng(start).integers(0, 255, (500, 1, 128, 128), np.uint8)
pixels = np.load(path, mmap_mode="r")
fold = Fold(pixels, np.arange(count), np.array([1]), np.array([0]), lengths=np.array([count]))
model = build_classifier(ModelConfig(backbone="test_efficientnet", weights="random", pooling="attention"), 2, 128)
score(model, fold.thinned(64), device=torch.device("cpu"))
began = time.process_time()
scores = score(model, fold, device=torch.device("cpu"))
print(json.dumps({"seconds": time.process_time() - began, "shape": scores.shape,
                  "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def scored(folder: Path, count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / f"{count}.npy"), str(count)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    assert found["shape"] == [1, 2]
    return found


def test_time_grows_with_the_number_of_images_and_memory_stays_below_three_gigabytes(tmp_path: Path) -> None:
    few, many = scored(tmp_path, 2000), scored(tmp_path, 10000)
    assert many["megabytes"] < 3000
    assert 3.5 < many["seconds"] / few["seconds"] < 6.5
