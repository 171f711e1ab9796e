"""Exports a model folder as one ONNX file, from images to the probabilities of `cdtl predict`.

The file of a model of exams takes all images of one exam and returns one row of probabilities.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cdtl_core.data.decode.read import fit_square, read_image
from cdtl_core.errors import ModelError
from cdtl_core.inference.model_folder import ModelNote, PooledNetwork, Which, load_model
from cdtl_core.models.exams import Exams
from cdtl_core.models.lora import merge_lora
from cdtl_core.models.model import Classifier
from cdtl_core.system.durable import replace_bytes

__all__ = ["TOLERANCE", "Exported", "export_onnx"]

TOLERANCE = 1e-4
_OPSET = 18
_CHECKED = 16


@dataclass(frozen=True)
class Exported:
    """The written file, and the largest difference from torch's probabilities over `images` images."""

    path: Path
    bytes: int
    images: int
    largest_difference: float


class _OneExam(Exams):
    """All images of a single exam, however many: without its length, which a written network does not know."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return values.sum(dim=0, keepdim=True)

    def highest(self, values: torch.Tensor) -> torch.Tensor:
        return values.amax(dim=0, keepdim=True)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        return values.mean(dim=0, keepdim=True)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        return values


class _Whole(nn.Module):
    """Images B 3 H W in [0, 1] to probabilities B K, including normalisation and temperature; of an exam 1 K."""

    def __init__(self, model: Classifier | PooledNetwork, temperature: float | None, *, exam: bool) -> None:
        super().__init__()
        self.model, self.exam = model, exam
        self.register_buffer("mean", torch.tensor(model.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(model.std).view(1, 3, 1, 1))
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.temperature = temperature or 1.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalised = (images - self.mean) / self.std
        logits = self.model(_OneExam(normalised, ()) if self.exam else normalised)
        probabilities: torch.Tensor = (logits / self.temperature).softmax(dim=1)
        return probabilities


def export_onnx(folder: Path, out: Path, images: tuple[Path, ...] = (), which: Which = "used") -> Exported:
    """Write a model folder as ONNX and compare it with torch on images; nothing is kept if they differ.

    Args:
        folder: A model folder.
        out: File to write.
        images: Files for the comparison; empty: random images.
        which: The model that the site uses, its own, or the joint one. Only the first is calibrated.

    Raises:
        ModelError: The folder holds no such model or one that must stay at the site, the libraries are missing, or the
            probabilities differ by more than 1e-4.
        DataError: An image cannot be read.
    """
    runtime = _libraries()
    model, note = load_model(folder, which)
    if note.stays and which != "joint":
        raise ModelError(
            f"the model in {folder} holds a part that was trained without differential privacy, so it must not leave "
            "the site: export the joint model, with --model joint."
        )
    for backbone in model.backbones:
        merge_lora(backbone)
    whole = _Whole(model, note.temperature if which == "used" else None, exam=note.unit != "image")
    whole = whole.eval().to(memory_format=torch.contiguous_format)
    pixels = _read(images, note.image_size) if images else _drawn(note.image_size)
    try:
        content = _converted(whole, pixels, note)
    except Exception as error:  # torch's exporter raises many kinds of errors
        raise ModelError(
            f"torch cannot write {note.backbone} as ONNX ({type(error).__name__}): use the model with torch."
        ) from error
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = [whole(torch.from_numpy(batch)).numpy() for batch in _batches(pixels, exam=whole.exam)]
    single = [one[None] for one in pixels] if not whole.exam else _batches(pixels, exam=True)
    found = np.concatenate([session.run(None, {"images": batch})[0] for batch in single])
    difference = float(np.abs(found - np.concatenate(expected)).max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"the ONNX scores differ from torch's by {difference:.2g}: nothing was written; use the model with torch."
        )
    replace_bytes(out, content)
    return Exported(out, len(content), len(pixels), difference)


def _libraries() -> Any:
    """Import onnxruntime and the two libraries that torch's exporter needs.

    Raises:
        ModelError: A library is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"exporting to ONNX needs the package {error.name}: install them all with pip install 'cdtl[onnx]'."
        ) from None
    return onnxruntime


def _converted(whole: nn.Module, pixels: npt.NDArray[np.float32], note: ModelNote) -> bytes:
    """Return the model as ONNX bytes, with the facts needed to use it among its properties."""
    import onnx

    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # torch's exporter warns about itself
        program = torch.onnx.export(
            whole,
            (torch.from_numpy(pixels[:2]),),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    assert program is not None  # noqa: S101 - it is with dynamo
    proto = program.model_proto
    told = note.model_dump(
        mode="json", exclude={"pool": {"donors"}}
    )  # the donors' shares are facts about the site's patients
    told |= {"input": "RGB in [0, 1], padded to a square", "use": "research only"}
    if note.unit != "image":
        told["input"] = f"all images of one {note.unit}, {told['input']}"
    onnx.helper.set_model_props(
        proto, {k: v if isinstance(v, str) else json.dumps(v) for k, v in told.items() if v is not None}
    )
    return bytes(proto.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the long log of torch's exporter."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _batches(pixels: npt.NDArray[np.float32], *, exam: bool) -> list[npt.NDArray[np.float32]]:
    """Return the images as one batch, or as exams of one image, of two, and of all."""
    return [pixels[:1], pixels[:2], pixels] if exam else [pixels]


def _read(images: tuple[Path, ...], size: int) -> npt.NDArray[np.float32]:
    squares = [fit_square(read_image(path), size) for path in images]
    colour = [np.repeat(one[..., None], 3, axis=2) if one.ndim == 2 else one for one in squares]
    return (np.stack(colour).transpose(0, 3, 1, 2) / 255).astype(np.float32)


def _drawn(size: int) -> npt.NDArray[np.float32]:
    """Return images of all kinds: black, white, noise, and smooth ones between."""
    rng = np.random.default_rng(0)
    coarse = rng.random((_CHECKED - 4, 3, 4, 4), dtype=np.float32)
    smooth = nn.functional.interpolate(torch.from_numpy(coarse), size=(size, size), mode="bilinear").numpy()
    noise = rng.random((2, 3, size, size), dtype=np.float32)
    flat = np.stack([np.full((3, size, size), value, np.float32) for value in (0, 1)])
    return np.concatenate([smooth, noise, flat])
