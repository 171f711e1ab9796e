"""The results of a run in a site's folder: scores and figures, model cards, and the site's diary."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.config.folders import NOTE_FILE, SiteFolder, federation_key
from cdtl_core.errors import CheckpointError
from cdtl_core.federation.journal import Journal, read_diary
from cdtl_core.metrics.metrics import auroc
from cdtl_core.metrics.summary import expected_calibration_error
from cdtl_core.results.card import ModelCard, load_card
from cdtl_core.results.report import Estimate, MethodResult, ModelChoice
from cdtl_core.results.scores import (
    VALIDATION_FILE,
    Scores,
    candidate_losses,
    gains,
    log_loss_changes,
    method_result,
    read_scores,
    with_own_model,
)

__all__ = ["Material", "choice_of", "main_method", "material_of", "run_names"]

_METHODS = ("alone", "fedbn", "cdtl")


@dataclass(frozen=True)
class Material:
    """A site's results of a run; everything by method, in their order.

    Attributes:
        test: Scores of test images.
        val: Scores of validation images; a method without stored ones is absent.
        results: Figures on test patients.
        gain: ``<method>-alone`` to the paired difference of AUROC.
        log_loss_change: ``<method>-alone`` to the paired difference of log-loss: below 0 is better.
        selection: Model selection of the main method.
        cards: Model cards.
        diaries: The site's own notes of its rounds.
    """

    site: str
    modality: str
    home: Path
    test: Mapping[str, Scores]
    val: Mapping[str, Scores]
    results: Mapping[str, MethodResult]
    gain: Mapping[str, Estimate]
    log_loss_change: Mapping[str, Estimate]
    selection: ModelChoice | None
    cards: Mapping[str, ModelCard]
    diaries: Mapping[str, Journal]

    @property
    def main(self) -> str | None:
        """The method of the model in the site's report; None before any has ended."""
        return main_method(list(self.test))

    @property
    def card(self) -> ModelCard | None:
        """The card of the main method's model, or of any."""
        return self.cards.get(self.main or "") or next(iter(self.cards.values()), None)

    @property
    def about(self) -> str:
        """A few words for the line below its name."""
        card = self.card
        return f"{self.modality}, {sum(card.cohort.patients.model_dump().values())} patients" if card else self.modality


def main_method(methods: list[str]) -> str | None:
    """Return `cdtl` if it was run, else the last method that shares anything, else any."""
    if "cdtl" in methods:
        return "cdtl"
    shared = [method for method in methods if method != "alone"]
    return (shared or methods or [None])[-1]  # type: ignore[list-item]


def material_of(
    home: Path, site: str, modality: str, run: str, seed: int, methods: Sequence[str] = _METHODS
) -> Material:
    """Read the results of a run from a site's folder.

    Args:
        home: The site's folder.
        site: Its name.
        modality: Of its images.
        run: Name of the run; empty: there is none yet.
        seed: Seed of the bootstrap of intervals.
        methods: In the order of the results; a method without a model is absent.

    Raises:
        CheckpointError, ModelError: A file is damaged.
    """
    place, methods = SiteFolder(home), methods if run else ()
    folders = {method: place.model(federation_key(run, method)) for method in methods}
    test = {method: found for method, folder in folders.items() if (found := read_scores(folder))}
    val = {method: found for method, folder in folders.items() if (found := read_scores(folder, VALIDATION_FILE))}
    test, val = with_own_model(test), with_own_model(val)
    main = main_method(list(test))
    diaries = {method: place.diary(federation_key(run, method)) for method in methods}
    return Material(
        site=site,
        modality=modality,
        home=home,
        test=test,
        val=val,
        results={method: method_result(found, seed) for method, found in test.items()},
        gain=gains(test, seed),
        log_loss_change=log_loss_changes(test, seed),
        selection=choice_of(folders[main], test[main], seed) if main in folders and main != "alone" else None,
        cards={method: card for method, folder in folders.items() if (card := load_card(folder))},
        diaries={method: read_diary(path, method, site) for method, path in diaries.items() if path.exists()},
    )


def run_names(home: Path) -> list[str]:
    """Return the names of the runs that left a model at a site, the newest last."""
    found = []
    for path in [folder / NOTE_FILE for folder in SiteFolder(home).models()]:
        try:
            name = json.loads(path.read_text(encoding="utf-8"))["federation"]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} cannot be read ({type(error).__name__}): copy the model again.") from None
        found.append((path.stat().st_mtime, str(name)))
    return list(dict.fromkeys(name for _, name in sorted(found, reverse=True)))[::-1]


def choice_of(folder: Path, test: Scores, seed: int) -> ModelChoice | None:
    """Return a model folder's selection, and the candidates' figures on test images.

    Args:
        folder: The model folder.
        test: Scores of test images.
        seed: Seed of the bootstrap.
    """
    if not (folder / NOTE_FILE).exists():
        return None
    note = json.loads((folder / NOTE_FILE).read_text(encoding="utf-8"))
    pool = note.get("pool") or {}
    losses, changes = candidate_losses(test, seed)
    return ModelChoice(
        chosen=note["chosen"],
        share=pool.get("share"),
        share_by=pool.get("by"),
        evidence_patients=pool.get("num_patients", 0),
        networks=note.get("networks", 1),
        networks_log_loss=note.get("networks_log_loss", {}),
        donor_shares={
            one["modality"]: Estimate(value=one["value"], low=one["low"], high=one["high"])
            for one in pool.get("donors", ())
        },
        validation_log_loss=note["validation_log_loss"],
        test_auroc={name: _number(auroc(test.positive, test.columns[f"p_{name}"])) for name in test.candidates},
        test_log_loss=losses,
        test_ece={
            name: _number(expected_calibration_error(test.positive, test.probability_of(name)))
            for name in test.candidates
        },
        log_loss_minus_own=changes,
    )


def _number(value: float) -> float | None:
    return value if value == value else None
