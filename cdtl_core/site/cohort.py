"""Opens the images of a site's folder: read, split by patient and decoded, each once. None of it is sent."""

from pathlib import Path

from cdtl_core.config import RunConfig, SiteConfig, TaskConfig
from cdtl_core.config.folders import SiteFolder
from cdtl_core.config.settings import load_site
from cdtl_core.data.cohort import Cohort, build_cohort, pixel_statistics
from cdtl_core.data.identity import KEY_FILE, load_key, pseudonym
from cdtl_core.data.manifest import Case, read_manifest
from cdtl_core.data.split import Split, split_patients
from cdtl_core.errors import ConfigError, DataError
from cdtl_core.federation.contract import ModalityContract, PixelStatistics, round_patients
from cdtl_core.system.durable import replace_json
from cdtl_core.system.foreign import parse_json

__all__ = ["contract_of", "open_cohort"]


def open_cohort(home: Path, config: RunConfig) -> Cohort:
    """Open the images of a site under the settings of a federation, without a network.

    Args:
        home: The folder that holds the site's ``site.toml``. Its images are decoded and split by patient on the first
            call; both are kept in the folder.
        config: What the federation agreed on.

    Raises:
        ConfigError: `site.toml` is missing or wrong, or the site lacks the positive label.
        DataError: The cohort cannot be used.
    """
    own = load_site(SiteFolder(home).settings)
    labels = own.labels or config.task.labels
    if config.task.positive not in labels:
        raise ConfigError(f"site {own.site} lacks the positive label '{config.task.positive}': add it to labels.")
    cases = _cases(home, own, config, labels)
    split = _split(home, cases, config, labels)
    data, size, cache = own.data, config.image.size, SiteFolder(home).cache
    return build_cohort(
        cases,
        split,
        labels=labels,
        size=size,
        cache=cache,
        frame=data.frame,
        strict=data.strict,
        box=data.box,
        slices=data.slices,
        tile_um=data.tile_um,
        unit=config.task.unit,
    )


def contract_of(home: Path, cohort: Cohort, task: TaskConfig) -> ModalityContract:
    """Return the facts that the site publishes about its cohort.

    Args:
        home: The site's folder.
        cohort: Its images.
        task: The run's task: its positive label, and what has a label.
    """
    own = load_site(SiteFolder(home).settings)
    statistics = None
    if own.publish.pixel_statistics:
        train = cohort.folds["train"]
        mean, std = pixel_statistics(train)
        statistics = PixelStatistics(mean=round(mean, 1), std=round(std, 1))
    return ModalityContract(
        site=own.site,
        modality=own.modality,
        labels=cohort.labels,
        positive=task.positive,
        label_map=own.data.label_map,
        channels=cohort.channels,
        bit_depth=cohort.bits,
        patients=round_patients(cohort.num_patients),
        statistics=statistics,
        initial_weights_hash=own.publish.initial_weights_hash,
        unit=task.unit,
    )


def _split(home: Path, cases: tuple[Case, ...], config: RunConfig, labels: tuple[str, ...]) -> dict[str, Split]:
    """Return the split, stored at the site by patient pseudonym, so that no patient moves when others are added.

    Args:
        home: The site's folder.
        cases: All images.
        config: The run.
        labels: The site's labels.
    """
    splits = SiteFolder(home).splits
    if splits.exists() and not (home / KEY_FILE).exists():
        raise DataError(
            f"{home / KEY_FILE} is missing but the folder splits exists: restore the key, or remove the folder splits."
        )
    key, shares = load_key(home), config.split
    path = splits / f"seed{config.seed}-test{shares.test}-val{shares.val}.json"
    kept: dict[str, Split] = parse_json(path.read_text()) if path.exists() else {}
    names = {case.patient: pseudonym(key, case.patient) for case in cases}
    before = {patient: kept[name] for patient, name in names.items() if name in kept}
    split = split_patients(cases, test=shares.test, val=shares.val, seed=config.seed, labels=labels, before=before)
    after = kept | {names[patient]: where for patient, where in split.items()}
    if after != kept:
        replace_json(path, after)
    return split


def _cases(home: Path, own: SiteConfig, config: RunConfig, labels: tuple[str, ...]) -> tuple[Case, ...]:
    phantom = own.data.phantom
    if phantom is not None:
        few, exam = f"-{phantom.train}" if phantom.train else "", phantom.exam_images
        form = (
            f"-{'slices' if phantom.series else 'images'}{exam[0]}to{exam[1]}-{phantom.other_lesions}" if exam else ""
        )
        folder = SiteFolder(home).cache / f"phantoms-{phantom.patients}-{phantom.seed}-{config.image.size}{few}{form}"
        manifest = folder / "manifest.csv"
        if not manifest.exists():
            from cdtl_core.data.synthetic.writing import write_phantoms

            write_phantoms(
                folder,
                modality=own.modality,
                num_patients=phantom.patients,
                seed=phantom.seed,
                size=config.image.size,
                train=phantom.train,
                images=exam,
                series=phantom.series,
                other_lesions=phantom.other_lesions,
            )
    else:
        manifest = own.data.root.expanduser() / (own.data.manifest or "")
    data = own.data
    return read_manifest(
        manifest, labels=labels, label_map=data.label_map, where=data.where, box=data.box, unit=config.task.unit
    )
