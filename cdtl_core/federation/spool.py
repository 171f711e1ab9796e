"""Updates that must wait for the others of their round, in a file and not in memory."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from cdtl_core.models.weights import Weights
from cdtl_core.system.durable import unwritable

__all__ = ["spooled"]


def spooled(weights: Weights) -> Weights:
    """The same CPU tensors, mapped from a nameless temporary file that is gone with them.

    Raises:
        CheckpointError: The folder for temporary files (TMPDIR) is full or read-only.
    """
    sizes = [value.numel() * value.element_size() for value in weights.values()]
    if not sum(sizes):
        return weights
    try:
        with tempfile.TemporaryFile() as file:
            for value in weights.values():
                file.write(value.contiguous().numpy().data)
            file.flush()
            data = np.memmap(file, np.uint8, mode="c")
    except OSError as error:
        raise unwritable(Path(tempfile.gettempdir()), error) from None
    ends = np.cumsum(sizes)
    parts = [torch.from_numpy(data[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    return {
        name: part.view(value.dtype).reshape(value.shape)
        for (name, value), part in zip(weights.items(), parts, strict=True)
    }
