"""GPU training: our loop against the bare step of the same network, and the input pipeline on its own.

    python -m simulations.bench.gpu [--json FILE] [--steps 100] [--compile] [--commit NAME]

Batches of 64 images of 224 px in bfloat16. The bare step is forward, backward and AdamW on one batch that lies on the
GPU. The bar is that the loop of `fit`, which reads, changes and copies images too, does 0.95 of its images per second.
Runs take turns, five of each; a figure is the median. Exit code 1: the bar is missed; 3: there is no CUDA device.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from cdtl_core.config import AugmentConfig, ModelConfig, TrainConfig
from cdtl_core.data.cohort import Fold
from cdtl_core.models.model import Classifier, build_classifier, set_training
from cdtl_core.training.batches import training_batches
from cdtl_core.training.device import Hardware, choose_device, compiled, prepared
from cdtl_core.training.features import feature_views
from cdtl_core.training.train import class_weights, fit

__all__ = ["main"]

BAR = 0.95
BATCH, SIZE, IMAGES, RUNS = 64, 224, 512, 5
CASES = (("efficientnet_lite0", 1), ("efficientnet_lite0", 3), ("resnet50", 1), ("vit_small_patch16_224", 1))
"""Backbones and channels of the images: gray, as most modalities are, and colour."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the bar is missed, 3 without a CUDA device."""
    options = _options(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("no CUDA device (torch.cuda.is_available() is false): nothing was measured\n")
        return 3
    hardware = Hardware(choose_device("cuda"), bfloat16=True, compile=options.compile)
    found: dict[str, Any] = {"machine": _machine(options.commit), "bar": BAR, "rows": []}
    sys.stdout.write(f"{json.dumps(found['machine'])}\n")
    for backbone, channels in CASES:
        row = _measured(backbone, channels, options.steps, hardware)
        found["rows"].append(row)
        sys.stdout.write(f"{json.dumps(row)}\n")
    found["features"] = _features(hardware)
    found["met"] = all(row["loop over bare"] >= BAR for row in found["rows"])
    text = json.dumps(found, indent=1)
    sys.stdout.write(f"{text}\n")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    return int(not found["met"])


def _measured(backbone: str, channels: int, steps: int, hardware: Hardware) -> dict[str, Any]:
    """Images per second of the bare step, of our loop and of the inputs alone, in turn."""
    model = build_classifier(ModelConfig(backbone=backbone, weights="random"), 2, SIZE).to(hardware.device)
    config, fold = TrainConfig(steps=steps, batch_size=BATCH, lr=1e-5), _images(channels)

    def loop() -> None:
        fit(model, fold, config, epoch=0, rng=np.random.default_rng(0), device=hardware)

    def inputs() -> None:
        for _ in training_batches(model, fold, config, np.random.default_rng(0), hardware, None):
            pass

    bare = _bare_step(model, fold, steps, hardware)
    arms: dict[str, Callable[[], None]] = {"bare": bare, "loop": loop, "inputs": inputs}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    torch.cuda.reset_peak_memory_stats(hardware.device)
    for run in range(RUNS + 1):
        for name, work in arms.items():
            began = time.perf_counter()
            work()
            torch.cuda.synchronize(hardware.device)
            if run:  # the first is for warming up
                seconds[name].append(time.perf_counter() - began)
    rates = {name: steps * BATCH / statistics.median(values) for name, values in seconds.items()}
    best = {name: steps * BATCH / min(values) for name, values in seconds.items()}
    spread = {name: round(max(values) / min(values) - 1, 3) for name, values in seconds.items()}
    return {
        "backbone": backbone, "channels": channels, "compile": hardware.compile,
        "images per second": {name: round(rate) for name, rate in rates.items()},
        "spread of the runs": spread,
        "loop over bare": round(rates["loop"] / rates["bare"], 3),
        "loop over bare, best of each": round(best["loop"] / best["bare"], 3),
        "inputs over bare": round(rates["inputs"] / rates["bare"], 2),
        "busy": _busy(loop),
        "peak memory in GB": round(torch.cuda.max_memory_allocated(hardware.device) / 1e9, 2),
    }  # fmt: skip


def _bare_step(model: Classifier, fold: Fold, steps: int, hardware: Hardware) -> Callable[[], None]:
    """Forward, backward and AdamW, again and again on one batch."""
    images = torch.randn(BATCH, 3, SIZE, SIZE, device=hardware.device).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(fold.labels[:BATCH]).to(hardware.device)
    weight = class_weights(fold.labels, 2).to(hardware.device)

    def run() -> None:
        set_training(model, freeze=0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)
        with prepared(hardware), compiled(model.backbone, hardware.compile):
            for _ in range(steps):
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    loss = cross_entropy(model(images), labels, weight)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    return run


def _features(hardware: Hardware) -> dict[str, Any]:
    """Views per second of a frozen network in float32, from images to the files on disk; the second of two runs."""
    model, fold = build_classifier(ModelConfig(weights="random", levels=(4, 5, 6, 7)), 2, SIZE), _images(1)
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            found = feature_views(
                model, fold, views=3, change=AugmentConfig(), seed=0, device=hardware, cache=Path(folder)
            )
            seconds = time.perf_counter() - began
    return {"backbone": model.name, "views per second": round(found.shape[0] * found.shape[1] / seconds)}


def _images(channels: int) -> Fold:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, channels, SIZE, SIZE), np.uint8)
    return Fold(pixels, np.arange(IMAGES), np.arange(IMAGES) % 2, np.arange(IMAGES))


def _busy(work: Callable[[], None]) -> dict[str, int]:
    """Per cent of the time in which the GPU ran a kernel, by nvidia-smi while `work` runs: median and lowest."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200", "-i", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:  # noqa: S603
        work()
        watch.terminate()
        lines = watch.communicate()[0].split()
    shares = sorted(int(line) for line in lines[2:] if line.isdigit())  # the first look back to before
    return {"median": int(statistics.median(shares)), "lowest": shares[0]} if shares else {}


def _machine(commit: str) -> dict[str, str]:
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader", "-i", "0"]
    card = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    return {
        "card": card, "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
        "torch": torch.__version__, "cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "python": platform.python_version(), "kernel": platform.release(), "numpy": np.__version__,
        "commit": commit, "command": " ".join(sys.argv),
    }  # fmt: skip


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m simulations.bench.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--steps", type=int, default=100, help="of each run (default 100)")
    parser.add_argument("--compile", action="store_true", help="train the backbones through torch.compile")
    parser.add_argument("--commit", default="", help="what was measured, for the file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
