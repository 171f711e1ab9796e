"""Rows of folders without a table of labels: which level is the label, which the patient, and when neither is clear."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from cdtl_core.data.decode.picture import DicomTags
from cdtl_core.data.listing.exams import ExamsBy, arrange_slices, name_exams
from cdtl_core.data.listing.files import Found, Listing, find_images, named, read_headers
from cdtl_core.data.listing.pattern import PathPattern, parse_pattern
from cdtl_core.data.source import Row, rows_of_manifest
from cdtl_core.errors import DataError

__all__ = ["list_folders", "rows_of", "split_of"]

_MAKE = "cdtl data make-manifest"
_MOST_LABELS = 20  # folders; more cannot be labels unless --patient-pattern says so
_NUMBERED = 8  # folders from which on numbers in all names mean patients; BI-RADS has seven
_FEW = 10  # label folders below a patient
_LEAST = 3  # patients of a class: the check refuses fewer
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_Tags = Mapping[Path, DicomTags | None]


def rows_of(source: Path, pattern: str = "") -> list[Row]:
    """Return the rows of a manifest, of a folder that holds ``manifest.csv``, or of class folders.

    Args:
        source: One of these.
        pattern: For class folders: where the patient is in an image's path, see `parse_pattern`.

    Raises:
        DataError: It is none of these, or a pattern is given for a manifest.
    """
    if not source.exists():
        raise DataError(f"{source} does not exist: give a manifest.csv, a folder that holds one, or class folders.")
    manifest = source / "manifest.csv" if source.is_dir() else source
    if source.is_dir() and not manifest.exists():
        return list(list_folders(source, pattern).rows)
    if pattern:
        raise DataError(
            f"{manifest} names the patients, so --patient-pattern has no use: leave it out, or write the manifest with "
            f"{_MAKE} {manifest.parent} --patient-pattern '{pattern}' --force."
        )
    return rows_of_manifest(manifest)


def list_folders(folder: Path, pattern: str = "", *, series: bool = False, exams: ExamsBy = "study") -> Listing:
    """Return the images of class folders, ``folder/<label>/**/image`` unless the pattern says where the label is.

    The patient is found by the pattern, else in a DICOM file's PatientID, else it is the folder below the label if all
    images have one and its names look like numbers of patients.

    Args:
        folder: The images.
        pattern: A template or regular expression on the path below the folder, see `parse_pattern`.
        series: Whether a folder of DICOM slices is one row, instead of one for each slice.
        exams: Whether a DICOM study or a series is an exam.

    Raises:
        DataError: There is no image, or it is not clear which folder is the label; the sentence says what settles it.
    """
    asked, found = parse_pattern(pattern), find_images(folder)
    tags, notes = read_headers(found)
    tags, merged = arrange_slices(found, tags, series)
    notes += merged
    paths = [found.path_of(image) for image in tags]
    fields = asked.read(paths) if asked else [{} for _ in paths]
    if asked is None or "label" not in asked.fields:
        loose = [path for path in paths if "/" not in path]
        if len(loose) == len(paths):
            raise DataError(
                f"{folder} holds {len(loose)} images and no label folders: give their labels as a table, "
                f"{_MAKE} {folder} --labels TABLE, or put them into {folder}/LABEL/."
            )
        if loose:
            notes.append(
                f"{len(loose)} of {len(paths)} images lie outside the label folders, left out: {named(loose)}."
            )
        _refuse_other_folders(found, paths, tags)
        fields = [
            {"label": path.partition("/")[0], **one} if "/" in path else {}
            for path, one in zip(paths, fields, strict=True)
        ]
    second, note = (set(), "") if asked else _second_level(paths, tags)
    notes += [note] if note else []
    rows = tuple(
        _row(image, one, tags[image], path.split("/")[1] if second else "")
        for image, path, one in zip(tags, paths, fields, strict=True)
        if one.get("label")
    )
    notes += _unmatched(asked, paths, fields)
    if not rows:
        raise DataError(f"no path in {folder} matches '{pattern}': the first is {paths[0]}; correct --patient-pattern.")
    rows, told = name_exams(rows, tags, exams)
    return Listing(rows, (*notes, *told), _layout(folder, asked, bool(second), tags))


def _row(image: Path, fields: Mapping[str, str], tags: DicomTags | None, below: str) -> Row:
    patient = fields.get("patient") or (tags.patient_id if tags else "") or below
    more = {name: fields[name] for name in ("view", "laterality") if fields.get(name)}
    split, group = split_of(fields.get("split", "")), fields.get("group", "")
    return Row(image, fields["label"], patient, split, group, more, fields.get("exam", ""))


def split_of(name: str) -> str:
    """Return ``train``, ``val`` or ``test`` for their usual names, and any other name unchanged."""
    return _SPLITS.get(name.casefold(), name)


def _unmatched(asked: PathPattern | None, paths: Sequence[str], fields: Sequence[Mapping[str, str]]) -> list[str]:
    missed = [path for path, one in zip(paths, fields, strict=True) if asked and not set(asked.fields) <= set(one)]
    if not missed or asked is None or len(missed) == len(paths):
        return []
    lack = "left out" if "label" in asked.fields else "without a patient from it"
    return [f"{len(missed)} of {len(paths)} images do not match '{asked.text}', {lack}: {named(missed)}."]


def _refuse_other_folders(found: Found, paths: Sequence[str], tags: _Tags) -> None:
    """Refuse if the folders directly below the source are splits or patients and therefore not labels."""
    tops: dict[str, set[str]] = defaultdict(set)
    for path, one in zip(paths, tags.values(), strict=True):
        if "/" in path:
            tops[path.partition("/")[0]].add(one.patient_id if one else "")
    if set(map(str.casefold, tops)) <= set(_SPLITS):
        raise DataError(
            f"{found.folder} holds {named(sorted(tops))}: these are splits, not labels. If the folders below are the "
            f"labels: {_MAKE} {found.folder} --patient-pattern '{{split}}/{{label}}/*'."
        )
    why = _like_patients(tops)
    if why:
        template, names = _label_level(paths)
        advice = (
            f"If the folders below, {', '.join(names)}, are the labels: {_MAKE} {found.folder} --patient-pattern "
            f"'{template}'"
            if template
            else f"Give a table with the columns PatientID and label: {_MAKE} {found.folder} --labels TABLE"
        )
        raise DataError(
            f"{found.folder} holds {len(tops)} folders {why}: these seem to be patients, not labels. {advice}. If "
            f"these {len(tops)} folders are labels after all, the pattern is '{{label}}/**'."
        )


def _like_patients(tops: Mapping[str, set[str]]) -> str:
    """Return why folders, with the DICOM patients in each, are patients and not labels; empty if they may be labels."""
    owners = [next(iter(patients)) for patients in tops.values() if len(patients) == 1]
    if len(tops) >= _LEAST and len(set(owners) - {""}) == len(tops):
        return "with one DICOM patient each"
    if len(tops) >= _NUMBERED and all(any(letter.isdigit() for letter in name) for name in tops):
        return f"with numbers in their names ({named(sorted(tops))})"
    return f"({named(sorted(tops))})" if len(tops) > _MOST_LABELS else ""


def _label_level(paths: Sequence[str]) -> tuple[str, list[str]]:
    """Return a template for label folders below patients, and their names; empty if no level has few shared names."""
    folders = [path.split("/")[:-1] for path in paths]
    for level in range(1, min(map(len, folders))):
        owners: dict[str, set[str]] = defaultdict(set)
        for parts in folders:
            owners[parts[level]].add(parts[0])
        if 2 <= len(owners) <= _FEW and min(map(len, owners.values())) >= 2:
            return "{patient}/" + "*/" * (level - 1) + "{label}/*", sorted(owners)
    return "", []


def _second_level(paths: Sequence[str], tags: _Tags) -> tuple[set[str], str]:
    """Return the folders below the labels if these are patients, and else a note that says they were not used."""
    parts = [path.split("/") for path, one in zip(paths, tags.values(), strict=True) if not one or not one.patient_id]
    parts = [one for one in parts if len(one) > 1]
    below: dict[str, set[str]] = defaultdict(set)
    for one in parts:
        if len(one) > 2:
            below[one[0]].add(one[1])
    names = set().union(*below.values())
    if not names:
        return set(), ""
    shared = sum(sum(name in one for one in below.values()) > 1 for name in names)
    numbered = all(any(letter.isdigit() for letter in name) for name in names)
    enough = len(names) >= _LEAST and 2 * shared <= len(names)
    if numbered and enough and all(len(one) > 2 for one in parts):
        return names, ""
    return set(), (
        f"the folders below the labels are not read as patients: {named(sorted(names))}. If they are patients, add "
        "--patient-pattern '{label}/{patient}/*' to cdtl data make-manifest."
    )


def _layout(folder: Path, asked: PathPattern | None, second: bool, tags: _Tags) -> str:
    if asked:
        return f"{folder} by the pattern {asked.text}"
    headers = ", patients from the DICOM headers" if any(one and one.patient_id for one in tags.values()) else ""
    return f"{folder}/<label>/{'<patient>/' if second else ''}<image>{headers}"
