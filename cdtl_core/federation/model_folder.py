"""A model as a folder: model.safetensors and model.json, everything needed to predict."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cdtl_core import __version__
from cdtl_core.config import BoxConfig, ModelConfig
from cdtl_core.durable import file_hash, replace_json
from cdtl_core.errors import ModelError
from cdtl_core.federation.finish import Outcome
from cdtl_core.federation.site import Site
from cdtl_core.foreign import parse_json
from cdtl_core.learning.model import Classifier, build_classifier
from cdtl_core.learning.weights import load_into, load_weights, save_weights

__all__ = ["MODEL_FILE", "NOTE_FILE", "ModelNote", "load_model", "read_note", "save_model"]

MODEL_FILE, NOTE_FILE = "model.safetensors", "model.json"
_SCHEMA = 1


class ModelNote(BaseModel):
    """What stands in model.json beside the weights."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = _SCHEMA
    cdtl_version: str
    federation: str
    method: str
    seed: int
    site: str
    modality: str
    backbone: str
    levels: tuple[int, ...] = ()
    regions: Literal["whole", "centre"] = "whole"
    adapter: int = 0
    labels: tuple[str, ...]
    positive: str
    image_size: int
    box: BoxConfig | None = None
    temperature: float | None
    chosen: str
    validation_log_loss: dict[str, float]
    weights_sha256: str


def save_model(folder: Path, site: Site, outcome: Outcome) -> None:
    """Write the weights, then the note that vouches for them."""
    save_weights(folder / MODEL_FILE, outcome.weights)
    note = ModelNote(
        cdtl_version=__version__,
        federation=site.config.name,
        method=site.config.method,
        seed=site.config.seed,
        site=site.name,
        modality=site.modality,
        backbone=site.config.model.backbone,
        levels=site.config.model.levels,
        regions=site.config.model.regions,
        adapter=site.config.model.adapter,
        labels=site.cohort.labels,
        positive=site.cohort.labels[site.positive],
        image_size=site.config.image.size,
        box=site.cohort.box,
        temperature=outcome.temperature,
        chosen=outcome.decision.chosen,
        validation_log_loss=dict(outcome.decision.losses),
        weights_sha256=file_hash(folder / MODEL_FILE),
    )
    replace_json(folder / NOTE_FILE, note.model_dump(mode="json"))


def load_model(folder: Path) -> tuple[Classifier, ModelNote]:
    """Read a model folder.

    Raises:
        ModelError: A file is missing, damaged, or does not belong to the other.
    """
    note = read_note(folder / NOTE_FILE)
    if not (folder / MODEL_FILE).exists() or file_hash(folder / MODEL_FILE) != note.weights_sha256:
        raise ModelError(
            f"{folder / MODEL_FILE} is missing or is not the file that model.json vouches for: copy it anew."
        )
    network = ModelConfig(backbone=note.backbone, levels=note.levels, regions=note.regions, adapter=note.adapter)
    model = build_classifier(network, len(note.labels), note.image_size)
    weights = load_weights(folder / MODEL_FILE)
    needed = {name for name, value in model.state_dict().items() if value.is_floating_point()}
    if needed - set(weights):
        raise ModelError(
            f"{folder / MODEL_FILE} lacks '{sorted(needed - set(weights))[0]}': copy the model folder anew."
        )
    load_into(model, weights)
    return model, note


def read_note(path: Path) -> ModelNote:
    """Read the note of a model folder.

    Raises:
        ModelError: It is missing, damaged, or of another schema.
    """
    try:
        content: Any = parse_json(path.read_text(encoding="utf-8"))
        note = ModelNote.model_validate(content)
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} is no model folder (model.json is missing): give sites/<name> of a run."
        ) from None
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(f"{path} cannot be read ({type(error).__name__}): copy the model folder anew.") from None
    if note.schema_version != _SCHEMA:
        raise ModelError(f"{path} has schema {note.schema_version}, this cdtl reads {_SCHEMA}: use a matching version.")
    return note
