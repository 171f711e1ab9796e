"""What stays at the site between messages, as files in its folder, keyed by federation.

::

    HOME/memory/<federation>/round-0003.safetensors   norms and a local head after a round
    HOME/memory/<federation>/own-0003.safetensors   the model that the site trains alone beside the joint one
    HOME/memory/<federation>/update-0003-<order>.safetensors   what was sent, with differential privacy
    HOME/models/<federation>/model.safetensors + model.json   the model a run left
    HOME/models/<federation>/scores.csv + validation.csv      what it says of each test and validation image
"""

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cdtl_core.config.schema import inside
from cdtl_core.data.cohort import Fold
from cdtl_core.federation.finish import Floats, Outcome
from cdtl_core.federation.site import OwnModel, RoundOrder, Site, SiteMemory, SiteUpdate
from cdtl_core.inference.model_folder import save_model
from cdtl_core.metrics.calibration import rescale
from cdtl_core.models.weights import Weights, load_weights, save_weights, weights_hash
from cdtl_core.results.scores import CALIBRATED, CALIBRATED_OTHER, TEST_FILE, VALIDATION_FILE
from cdtl_core.system.durable import replace_bytes

__all__ = ["keep_update", "kept_update", "load_memory", "load_own", "model_folder", "save_memory", "save_outcome"]
__all__ += ["save_own"]

_KEPT = 3


def load_memory(home: Path, federation: str, *, before: int) -> SiteMemory:
    """The newest memory of a round before `before`; a fresh one if there is none.

    A round that is asked for again after a crash starts from the memory it started from the first time.
    """
    found = [(int(path.stem.removeprefix("round-")), path) for path in _memories(home, federation)]
    usable = [(round, path) for round, path in found if round < before]
    if not usable or before == 1:
        return SiteMemory()
    round, path = usable[-1]
    return SiteMemory(round, load_weights(path))


def save_memory(home: Path, federation: str, memory: SiteMemory) -> None:
    """Keep the memory after a round; drop those of later rounds (of an abandoned try) and all but the newest few."""
    folder = inside(home, "memory", federation)
    save_weights(folder / f"round-{memory.round:04d}.safetensors", memory.local or {})
    paths = _memories(home, federation)
    later = [path for path in paths if int(path.stem.removeprefix("round-")) > memory.round]
    kept = [path for path in paths if path not in later]
    for path in later + kept[:-_KEPT]:
        path.unlink()


def load_own(home: Path, federation: str, *, before: int) -> OwnModel:
    """The newest own model of a round before `before`; a fresh one if there is none."""
    found = [path for path in _own_models(home, federation) if int(path.stem.removeprefix("own-")) < before]
    if not found or before == 1:
        return OwnModel()
    parts: dict[str, Weights] = {"offset": {}, "local": {}}
    for name, value in load_weights(found[-1]).items():
        part, _, rest = name.partition("/")
        parts["offset" if part == "drift" else part][rest] = value  # the name before 0.2
    return OwnModel(parts["offset"], SiteMemory(int(found[-1].stem.removeprefix("own-")), parts["local"]))


def save_own(home: Path, federation: str, own: OwnModel) -> None:
    """Keep the own model after a round; drop those of later rounds and all but the newest few."""
    weights = {f"offset/{name}": value for name, value in own.offset.items()}
    weights |= {f"local/{name}": value for name, value in (own.memory.local or {}).items()}
    save_weights(inside(home, "memory", federation) / f"own-{own.memory.round:04d}.safetensors", weights)
    paths = _own_models(home, federation)
    later = [path for path in paths if int(path.stem.removeprefix("own-")) > own.memory.round]
    for path in later + [path for path in paths if path not in later][:-_KEPT]:
        path.unlink()


def keep_update(home: Path, federation: str, initial_weights_hash: str, order: RoundOrder, update: SiteUpdate) -> None:
    """Keep what a round with privacy sends: asked for again, it is sent again, and costs nothing."""
    path = _update_path(home, federation, initial_weights_hash, order)
    save_weights(path, dict(update.delta))
    for old in path.parent.glob("update-*.safetensors"):
        if old != path:
            old.unlink()


def kept_update(
    home: Path, federation: str, initial_weights_hash: str, order: RoundOrder, site: str
) -> SiteUpdate | None:
    """What was kept for this very order, if it was answered before."""
    path = _update_path(home, federation, initial_weights_hash, order)
    return SiteUpdate(site, order.round, load_weights(path), private=True) if path.exists() else None


def _update_path(home: Path, federation: str, initial_weights_hash: str, order: RoundOrder) -> Path:
    asked = f"{initial_weights_hash}/{weights_hash(order.offset)}/{order.share_head}"
    name = f"update-{order.round:04d}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.safetensors"
    return inside(home, "memory", federation, name)


def model_folder(home: Path, federation: str) -> Path:
    """Where the model that a run left is kept."""
    return inside(home, "models", federation)


def save_outcome(home: Path, federation: str, site: Site, outcome: Outcome, *, private: bool) -> None:
    """Write the model folder and, beside it, the test and validation patients' scores, which are never sent."""
    folder = model_folder(home, federation)
    _save_scores(folder / TEST_FILE, site, outcome, site.cohort.folds["test"], outcome.test)
    _save_scores(folder / VALIDATION_FILE, site, outcome, site.cohort.folds["val"], outcome.val)
    save_model(folder, site, outcome, private=private)


def _save_scores(path: Path, site: Site, outcome: Outcome, fold: Fold, found: Mapping[str, Floats]) -> None:
    """One row per image: its file, its patient's number, its truth, the positive label's probability by candidate.

    Each candidate is there raw and calibrated, where it could be calibrated.
    """
    columns = {f"p_{name}": np.exp(values[:, site.positive]) for name, values in found.items()}
    for name, temperature in outcome.temperatures.items():
        if temperature is not None:
            column = CALIBRATED if name == outcome.selection.chosen else CALIBRATED_OTHER + name
            columns[column] = np.exp(rescale(found[name], temperature)[:, site.positive])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "patient", "positive", *columns])
    for i, (row, patient, label) in enumerate(zip(fold.rows, fold.patients, fold.labels, strict=True)):
        scores = [f"{values[i]:.9g}" for values in columns.values()]
        writer.writerow([site.cohort.files[row], patient, int(label == site.positive), *scores])
    replace_bytes(path, text.getvalue().encode())


def _memories(home: Path, federation: str) -> list[Path]:
    return sorted(inside(home, "memory", federation).glob("round-*.safetensors"))


def _own_models(home: Path, federation: str) -> list[Path]:
    return sorted(inside(home, "memory", federation).glob("own-*.safetensors"))
