"""The model card as data: description, origin, performance and limits of a released model."""

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.errors import ModelError
from cdtl_core.results.report import Counts, Estimate
from cdtl_core.system.durable import replace_bytes, replace_json
from cdtl_core.system.foreign import parse_json

__all__ = ["CARD_FILE", "CARD_TEXT", "INTENDED_USE", "OUT_OF_SCOPE", "Audited", "Blend", "Calibration", "Cohort"]
__all__ += ["ModelCard", "Operating", "Pooling", "Promise", "Start", "known_limits", "load_card", "save_card"]

CARD_FILE, CARD_TEXT = "model_card.json", "model_card.md"
SCHEMA_VERSION = 1
INTENDED_USE = (
    "For research on federated training across imaging modalities: to score images of the kind that this site "
    "trained on, and to compare methods."
)
OUT_OF_SCOPE = (
    "decisions about patients, screening, triage, or any clinical use; images of another modality, organ, device or "
    "population; images that no person has checked."
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cohort(_Part):
    """The site's own patients by split.

    `unit` is what has a label, `units` their number (null: one for each image); `positives` counts those of the
    positive label.
    """

    synthetic: bool
    patients: Counts
    images: Counts
    positives: Counts
    unit: str = "image"
    units: Counts | None = None
    channels: int
    bit_depth: int
    label_map: dict[str, str]
    checks_off: dict[str, str]

    @property
    def labelled(self) -> Counts:
        """Number of units."""
        return self.units or self.images


class Start(_Part):
    """The initial weights of the run."""

    weights: str
    sha256: str
    licence: str


class Blend(_Part):
    """The blend of modalities: the settings, and its effect if the run's rounds are known here.

    Attributes:
        settings: The run's settings.
        groups: Modalities, in the order of the rows of `transfer`; null if the site does not know the rounds.
        transfer: Share of each group's offsets in the final model of each group.
        retention: Retention of the site's own group (1: nothing was shared, 0: a uniform mixture).
    """

    settings: dict[str, Any]
    groups: tuple[str, ...] | None = None
    transfer: tuple[tuple[float, ...], ...] | None = None
    retention: float | None = None


class Pooling(_Part):
    """The pool of own and joint model.

    Attributes:
        share: Share of the joint model relative to the own one.
        by: What set it.
        patients: Held-out patients behind it.
        networks: Number of networks in a prediction.
        networks_log_loss: Validation log-loss of ``one`` and of ``two`` networks, if they were compared.
    """

    share: float
    by: str
    patients: int
    networks: int = 1
    networks_log_loss: dict[str, float] = {}


class Calibration(_Part):
    """A temperature fitted on validation patients, null with fewer than 20; ECE on test images before and after."""

    temperature: float | None
    validation_patients: int
    ece_raw: float | None
    ece: float | None


class Operating(_Part):
    """The threshold chosen on validation patients, and its results on test patients; null without both classes."""

    threshold: float | None
    validation_patients: int
    sensitivity: Estimate
    specificity: Estimate


class Audited(_Part):
    """Result of `cdtl privacy audit` for this site's mechanism."""

    claim: float
    bound: float
    confidence: float
    canaries: int
    refuted: bool


class Promise(_Part):
    """Differential privacy of each training patient; all null for a site that trained without."""

    private: bool
    target_epsilon: float | None = None
    target_delta: float | None = None
    epsilon_rdp: float | None = None
    epsilon_prv: float | None = None
    audit: Audited | None = None


class ModelCard(_Part):
    """All facts about a released model; `metrics` are of the site's test patients."""

    schema_version: int = SCHEMA_VERSION
    name: str
    intended_use: str
    out_of_scope: str
    site: str
    modality: str
    method: str
    seed: int
    rounds: int
    labels: tuple[str, ...]
    positive: str
    backbone: str
    image_size: int
    parameters: int
    chosen: str
    pool: Pooling | None = None
    stays: bool = False
    validation_log_loss: dict[str, float]
    cohort: Cohort
    initial_weights: Start = Field(validation_alias=AliasChoices("initial_weights", "theta0"))  # theta0 before 0.2
    blend: Blend
    metrics: dict[str, Estimate]
    gain: dict[str, Estimate]
    calibration: Calibration
    operating_point: Operating
    privacy: Promise
    limits: tuple[str, ...]
    versions: dict[str, str]
    config: dict[str, bool | int | float | str]
    bundle_sha256: str | None
    weights_sha256: str


def known_limits(
    *, synthetic: bool, test_patients: int, has_interval: bool, calibrated: bool, private: bool, gain: Estimate | None
) -> tuple[str, ...]:
    """Return the limits of a model as sentences.

    Args:
        synthetic: Whether its images are synthetic.
        test_patients: Number of test patients.
        has_interval: Whether its figures have intervals.
        calibrated: Whether its probabilities are calibrated.
        private: Whether it was trained with differential privacy.
        gain: Its gain over the own model.
    """
    limits = [
        "Tested only on patients of the same site; nothing is known about other sites, devices or years.",
        "One run with one seed: intervals cover the choice of test patients, but not the seed (cdtl compare covers "
        "it).",
        "The model was selected on held-out patients of this site; with few patients the selection is uncertain.",
    ]
    if synthetic:
        limits.insert(0, "Trained and tested on synthetic images: its figures have no medical meaning.")
    if not has_interval:
        limits.append(f"Only {test_patients} test patients: too few for an interval, its figures are anecdotes.")
    elif test_patients < 100:
        limits.append(f"{test_patients} test patients: the intervals are wide.")
    if not calibrated:
        limits.append("Its probabilities are not calibrated.")
    if private:
        limits.append(
            "training_statistics.json, scores.csv and validation.csv beside the model describe this site's patients "
            "without differential privacy: remove them before the folder leaves the site."
        )
    else:
        limits.append("Trained without differential privacy: it can disclose information about training patients.")
    if gain is not None and (gain.low is None or gain.low <= 0):
        limits.append("No evidence that it is better than this site's own model.")
    return tuple(limits)


def save_card(folder: Path, card: ModelCard) -> None:
    """Write model_card.json and model_card.md."""
    from cdtl_core.results.text import card_markdown  # imported here: a round needs no templates

    replace_json(folder / CARD_FILE, card.model_dump(mode="json"))
    replace_bytes(folder / CARD_TEXT, card_markdown(card).encode())


def load_card(folder: Path) -> ModelCard | None:
    """Return the card in a model folder; None if it has none, as in folders of earlier versions.

    Raises:
        ModelError: It is damaged.
    """
    path = folder / CARD_FILE
    if not path.exists():
        return None
    try:
        return ModelCard.model_validate(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(f"{path} cannot be read ({type(error).__name__}): copy the model folder again.") from None
