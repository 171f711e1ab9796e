"""Runs the cohort check on files: rows of the source, facts of each file, rules."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cdtl_core.config import SiteConfig, Unit
from cdtl_core.config.modalities import Modality, modality_of
from cdtl_core.data.facts import examine_all
from cdtl_core.data.listing.folders import rows_of
from cdtl_core.data.source import Row
from cdtl_core.quality import CohortCheck, Entry, check_entries
from cdtl_core.quality.sample import spread_labels

__all__ = ["check_cohort", "check_site_images", "images_of"]


def check_cohort(
    source: Path | str,
    *,
    modality: Modality | str,
    labels: Sequence[str] = (),
    label_map: Mapping[str, str] | None = None,
    switched_off: Mapping[str, str] | None = None,
    patient_pattern: str = "",
    tile_um: float = 1.0,
    unit: Unit = "exam",
) -> CohortCheck:
    """Check a manifest, a folder that contains one, or class folders. Every file is read once; nothing is written.

    Args:
        source: A manifest.csv (file, label, patient_id), a folder that holds one, or ``FOLDER/<label>/<image>``.
        modality: The declared modality, for example ``"ultrasound"``.
        labels: Labels that may occur. Without them: those that `label_map` names, or any.
        label_map: Local label to task label. Images whose label maps to ``""`` are left out.
        switched_off: Rule to the reason why it does not apply here; its findings are marked as waived.
        patient_pattern: For class folders: where the patient is in an image's path, ``"{patient}_*"`` or a regular
            expression whose first group is the patient.
        tile_um: Micrometres per pixel of a whole slide's tiles.
        unit: What has a label, as `task.unit` of the run: an image, an exam, or a patient with all her images.

    Returns:
        Counts and findings; `has_errors` is true if there is an unwaived error.

    Raises:
        DataError: The source is none of these, or a pattern is given for a manifest.
        ConfigError: The modality is unknown, or `switched_off` names no rule or gives no reason.

    Examples:
        >>> from pathlib import Path
        >>> from cdtl_core import check_cohort, write_phantoms
        >>> manifest = write_phantoms(Path("images"), modality="ultrasound", num_patients=20, seed=0, size=64)
        >>> check_cohort(manifest, modality="ultrasound").counts.patients
        20
    """
    declared = modality_of(modality) if isinstance(modality, str) else modality
    names = label_map or {}
    rows = rows_of(Path(source), patient_pattern)
    exams = _exams(rows, unit)
    listed = spread_labels(
        [
            Entry(row.file, row.label, row.patient, row.split, exam, names.get(row.label, ""))
            for row, exam in zip(rows, exams, strict=True)
        ]
    )
    entries = [entry for entry in listed if names.get(entry.label) != ""]
    allowed = list(labels) or [label for label, task in names.items() if task]
    facts = examine_all([entry.file for entry in entries], tile_um=tile_um)
    return check_entries(entries, facts, modality=declared, labels=allowed, switched_off=switched_off or {})


def check_site_images(own: SiteConfig, unit: Unit, labels: Sequence[str] = ()) -> CohortCheck:
    """Check the images of a site by its settings; as `check_cohort`.

    Args:
        own: The site's settings.
        unit: What has a label.
        labels: Labels that may occur.
    """
    return check_cohort(
        images_of(own),
        modality=modality_of(own.modality),
        labels=labels,
        label_map=own.data.label_map,
        switched_off=own.checks.off,
        tile_um=own.data.tile_um,
        unit=unit,
    )


def images_of(own: SiteConfig) -> Path:
    """Return the manifest of a site's images, or their folder."""
    return own.data.root.expanduser() / (own.data.manifest or "")


def _exams(rows: Sequence[Row], unit: Unit) -> list[str]:
    """Return the name of each row's unit with several images; a patient's is her number in the list, not her name."""
    if unit == "exam":
        return [row.exam for row in rows]
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(row.patient for row in rows), start=1)}
    return [f"patient number {numbers[row.patient]}" if unit == "patient" and row.patient else "" for row in rows]
