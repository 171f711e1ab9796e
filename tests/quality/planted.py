"""A clean synthetic cohort on disk, for tests that plant one fault in it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cdtl_core.config.modalities import modality_of
from cdtl_core.data.facts import Fault, ImageFacts, examine_all
from cdtl_core.data.synthetic.phantom import render_phantom
from cdtl_core.quality import CohortCheck, Entry, check_entries


def write_cohort(folder: Path, *, modality: str = "mammography", patients: int = 60, size: int = 128) -> list[Entry]:
    """One image per patient; every third is malignant."""
    entries = []
    for index in range(patients):
        malignant = index % 3 == 0
        label = "malignant" if malignant else "benign"
        file = folder / "images" / f"case{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = render_phantom(modality, malignant, np.random.default_rng([1, index]), size)
        Image.fromarray(framed(pixels)).save(file)
        entries.append(Entry(file, label, f"p{index}"))
    return entries


def framed(pixels: np.ndarray) -> np.ndarray:
    """Black on one side, as films and sectors have it: so that an image differs from its negative."""
    pixels = pixels.copy()
    pixels[:, : pixels.shape[1] // 4] = 4
    return pixels


def look(
    entries: Sequence[Entry],
    *,
    modality: str = "mammography",
    labels: Sequence[str] = ("benign", "malignant"),
    switched_off: Mapping[str, str] | None = None,
) -> CohortCheck:
    """Examine and check."""
    facts = facts_of([entry.file for entry in entries])
    return check_entries(entries, facts, modality=modality_of(modality), labels=labels, switched_off=switched_off)


_KNOWN: dict[tuple[str, bytes], ImageFacts] = {}
"""Facts by suffix and bytes of the file: most tests spoil one image of a cohort, and the others are as they were."""


def facts_of(files: Sequence[Path]) -> list[ImageFacts | Fault]:
    """What `examine_all` returns; an image whose bytes were examined before is not examined again."""
    keys = {file: (file.suffix, file.read_bytes()) for file in files if file.is_file()}
    new = [file for file in files if keys.get(file) not in _KNOWN]
    found = dict(zip(new, examine_all(new, workers=1), strict=True))
    _KNOWN.update({keys[file]: one for file, one in found.items() if file in keys and isinstance(one, ImageFacts)})
    return [found[file] if file in found else replace(_KNOWN[keys[file]], file=file) for file in files]


def named(check: CohortCheck) -> dict[str, set[str]]:
    """Files by rule."""
    found: dict[str, set[str]] = {}
    for finding in check.findings:
        found.setdefault(finding.rule, set()).update(file.name for file in finding.files)
    return found
