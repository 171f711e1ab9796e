"""A model as a folder with everything needed to predict.

::

    model.json            description of the model, and the hashes of the weights
    model.safetensors     the model that the site uses; two networks if a pool cannot be folded into one
    own.safetensors       its own model and the joint one, if the run pooled them
    joint.safetensors
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from cdtl_core import __version__
from cdtl_core.config import BoxConfig, ModelConfig, Pooling, Unit
from cdtl_core.config.folders import MODEL_FILE, NOTE_FILE, SITE_FILE, SiteFolder
from cdtl_core.errors import ModelError
from cdtl_core.federation.donors import DonorShare
from cdtl_core.federation.evidence import PooledModel
from cdtl_core.federation.finish import Outcome, SiteModel
from cdtl_core.federation.model_selection import JOINT, OWN
from cdtl_core.federation.pool import Pool, Standard
from cdtl_core.federation.site import Site
from cdtl_core.inference.pooled_network import PooledNetwork
from cdtl_core.models.model import Classifier, build_classifier
from cdtl_core.models.weights import Weights, load_into, load_weights, save_hashed
from cdtl_core.system.durable import file_hash, replace_json
from cdtl_core.system.foreign import parse_json

__all__ = ["ModelNote", "PoolNote", "PooledNetwork", "Which", "files_of", "load_model", "read_note", "save_model"]

Which = Literal["used", "own", "joint"]
_FILES: Mapping[Which, str] = {"used": MODEL_FILE, "own": "own.safetensors", "joint": "joint.safetensors"}
_SCHEMA = 2


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StandardNote(_Closed):
    """Centre K and spread of a model's logits over the site's training images."""

    centre: tuple[float, ...]
    spread: float


class DonorNote(_Closed):
    """Share of a donor modality with its 95 % interval."""

    modality: str
    value: float
    low: float
    high: float


class PoolNote(_Closed):
    """How own and joint model are pooled, see `cdtl_core.federation.pool`."""

    own: StandardNote
    joint: StandardNote
    share: float
    scale: float
    bias: tuple[float, ...]
    by: Literal["evidence", "equal"]
    num_patients: int
    donors: tuple[DonorNote, ...] = ()

    @classmethod
    def of(cls, pool: Pool, donors: Sequence[DonorShare] = ()) -> "PoolNote":
        """Build the note from the values that a run computed."""
        shares = tuple(DonorNote(**vars(one)) for one in donors)
        own, joint = (
            StandardNote(centre=tuple(one.centre.tolist()), spread=one.spread) for one in (pool.own, pool.joint)
        )
        bias = tuple(pool.bias.tolist())
        told = {"share": pool.share, "scale": pool.scale, "by": pool.by, "num_patients": pool.num_patients}
        return cls(own=own, joint=joint, bias=bias, donors=shares, **told)

    @property
    def pool(self) -> Pool:
        """Return the values used for prediction."""
        own, joint = (Standard(np.array(one.centre), one.spread) for one in (self.own, self.joint))
        return Pool(own, joint, self.share, self.scale, np.array(self.bias), self.by, self.num_patients)


class ModelNote(_Closed):
    """The contents of model.json.

    Attributes:
        pooling: How the features of an exam's images become one.
        unit: What has a label, and is predicted.
        slices: Which images of a file with several were used, as in `data.slices`.
        tile_um: Micrometres per pixel of the tiles of whole slides.
        chosen: The candidate that the site uses: ``pool``, ``own`` or ``joint``.
        pool: How it was pooled; None for a run with one model.
        networks: Number of classifiers in model.safetensors: 2 for a pool that is neither folded into one head nor
            replaced by one network.
        networks_log_loss: Validation log-loss of ``one`` and of ``two`` networks, if they were compared.
        stays: Whether the model holds a part that was trained without the privacy that the run promised: such a model
            must not leave the site.
        weights_sha256: Hash of model.safetensors.
        others_sha256: File to hash of the other weights.
    """

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
    lora: int = 0
    pooling: Pooling = "mean"
    unit: Unit = "image"
    slices: str | int = "all"
    tile_um: float = 1.0
    labels: tuple[str, ...]
    positive: str
    image_size: int
    box: BoxConfig | None = None
    temperature: float | None
    chosen: str
    pool: PoolNote | None = None
    networks: Literal[1, 2] = 1
    networks_log_loss: dict[str, float] = {}
    stays: bool = False
    validation_log_loss: dict[str, float]
    weights_sha256: str
    others_sha256: dict[str, str] = {}


def files_of(own: Weights | None, joint: Weights | None) -> dict[str, Weights]:
    """Return file to weights, for those that a model folder will hold whatever the outcome of the run is.

    Args:
        own: The site's own classifier; None if the run has none.
        joint: The joint one; likewise.
    """
    if own is not None and joint is not None:
        return {_FILES["own"]: own, _FILES["joint"]: joint}
    one = joint if own is None else own
    return {} if one is None else {MODEL_FILE: one}


def save_model(
    folder: Path,
    site: Site,
    outcome: Outcome,
    *,
    private: bool = False,
    written: Mapping[str, Future[str]] = MappingProxyType({}),
) -> ModelNote:
    """Write the weights, then model.json with their hashes, which is returned.

    Args:
        folder: Folder of the model.
        site: The site.
        outcome: The outcome of the run.
        private: Whether the site trained the joint model with differential privacy; its own model never is.
        written: Those of `files_of` that a thread writes, with their hashes.
    """
    chosen = outcome.selection.chosen
    used = outcome.used

    def hash_of(name: str, model: SiteModel) -> str:
        return written[name].result() if name in written else save_hashed(folder / name, _flat(model))

    weights_sha256, others = hash_of(MODEL_FILE, used), {}
    if outcome.pooled is not None:
        parts: tuple[Which, Which] = ("own", "joint")
        others = {_FILES[part]: hash_of(_FILES[part], outcome.models[part]) for part in parts}
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
        lora=site.config.model.lora,
        pooling=site.config.model.pooling,
        unit=site.config.task.unit,
        slices=site.cohort.slices,
        tile_um=site.cohort.tile_um,
        labels=site.cohort.labels,
        positive=site.cohort.labels[site.positive],
        image_size=site.config.image.size,
        box=site.cohort.box,
        temperature=outcome.temperature,
        chosen=chosen,
        pool=PoolNote.of(outcome.pooled.pool, outcome.pooled.donors) if outcome.pooled else None,
        networks=2 if isinstance(used, PooledModel) else 1,
        networks_log_loss=dict(outcome.pooled.networks_log_loss) if outcome.pooled else {},
        stays=private and chosen != JOINT,
        validation_log_loss=dict(outcome.selection.losses),
        weights_sha256=weights_sha256,
        others_sha256=others,
    )
    replace_json(folder / NOTE_FILE, note.model_dump(mode="json"))
    return note


def load_model(folder: Path | str, which: Which = "used") -> tuple[Classifier | PooledNetwork, ModelNote]:
    """Read a model folder.

    Args:
        folder: A site's model, for example ``runs/demo/sites/north``.
        which: ``"used"``, the model that the site uses, or ``"own"`` or ``"joint"``, the two that it was pooled from.

    Returns:
        The network (normalised images B 3 H W to logits B K) and the note that says what it is: labels, image size,
        backbone, temperature.

    Raises:
        ModelError: A file is missing or damaged, or does not match model.json.

    Examples:
        >>> from cdtl_core import load_model
        >>> network, note = load_model("runs/demo/sites/north")
        >>> note.labels
        ('benign', 'malignant')
    """
    folder = Path(folder)
    note = read_note(folder / NOTE_FILE)
    if which != "used" and not note.others_sha256:
        raise ModelError(f"{folder} holds only one model, because its run did not pool: remove the option '{which}'.")
    path = folder / _FILES[which]
    wanted = note.weights_sha256 if which == "used" else note.others_sha256[_FILES[which]]
    if not path.exists() or file_hash(path) != wanted:
        raise ModelError(f"{path} is missing or does not match the hash in model.json: copy the folder again.")
    weights = load_weights(path)
    if which == "used" and note.networks == 2 and note.pool is not None:
        parts = [_part(weights, name) for name in (OWN, JOINT)]
        own, joint = (_network(note, part, path) for part in parts)
        return PooledNetwork(own, joint, note.pool.pool), note
    return _network(note, weights, path), note


def read_note(path: Path) -> ModelNote:
    """Read the model.json of a model folder.

    Raises:
        ModelError: It is missing, damaged, or of another schema.
    """
    try:
        content: Any = parse_json(path.read_text(encoding="utf-8"))
        schema = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(schema, int) and schema != _SCHEMA:
            raise ModelError(f"{path} has schema {schema}, this cdtl reads {_SCHEMA}: use the version that wrote it.")
        return ModelNote.model_validate(content)
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} is not a model folder (model.json is missing): {_other(path.parent)}"
        ) from None
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(f"{path} cannot be read ({type(error).__name__}): copy the model folder again.") from None


def _other(folder: Path) -> str:
    """Return what to give in place of a folder without a model: of a site's folder its models."""
    if not (folder / SITE_FILE).exists():
        return "give sites/<name> of a run."
    if models := SiteFolder(folder).models():
        return f"it is a site's folder, so give one of its models: {', '.join(map(str, models))}."
    return "it is a site's folder without a model; it has one once a run has ended."


def _flat(model: SiteModel) -> dict[str, torch.Tensor]:
    return model.tensors if isinstance(model, PooledModel) else model


def _part(weights: Mapping[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _network(note: ModelNote, weights: Mapping[str, torch.Tensor], path: Path) -> Classifier:
    network = ModelConfig(**note.model_dump(include={"backbone", "levels", "regions", "adapter", "lora", "pooling"}))
    model = build_classifier(network, len(note.labels), note.image_size)
    needed = {name for name, value in model.state_dict().items() if value.is_floating_point()}
    if needed - set(weights):
        raise ModelError(f"{path} lacks '{sorted(needed - set(weights))[0]}': copy the model folder again.")
    load_into(model, weights)
    return model
