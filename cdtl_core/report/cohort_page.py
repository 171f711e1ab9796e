"""The cohort check as one HTML page: counts, findings, and the images to look at."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cdtl_core.data.decode.read import read_picture
from cdtl_core.errors import DataError
from cdtl_core.quality import CohortCheck, Finding
from cdtl_core.system.templates import page_environment

__all__ = ["cohort_html"]

SHEET = 12  # images shown per rule, or pairs
GROUP = 4  # images shown of one group of duplicates
FILES = 200  # files named per rule
SIZES = 6  # image sizes named
SIDE = 176  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class _Shown:
    name: str
    source: str  # a data URL, empty if the image cannot be shown


@dataclass(frozen=True)
class _Block:
    message: str
    images: tuple[_Shown, ...]
    hidden: int  # images concerned that are not shown


@dataclass(frozen=True)
class _Section:
    rule: str
    status: str  # error, warning, waived
    advice: str
    reason: str
    blocks: tuple[_Block, ...]
    more: tuple[str, ...]  # messages of findings without pictures
    files: tuple[str, ...]
    unnamed: int  # files beyond those named


def cohort_html(check: CohortCheck, *, root: Path, title: str = "Cohort check") -> str:
    """Return the page, self-contained and without scripts; it shows patients' images and stays at the site.

    Args:
        check: The findings.
        root: Folder that file names are relative to.
        title: Heading, e.g. the site's name.
    """
    sections = _sections(check, root)
    counts = check.counts
    return (
        page_environment(Path(__file__).parent / "templates")
        .get_template("cohort.html")
        .render(
            title=title,
            check=check,
            counts=counts,
            sections=sections,
            errors=_number(check, "error"),
            warnings=_number(check, "warning"),
            waived=sum(bool(finding.waived) for finding in check.findings),
            sizes=list(counts.sizes.items())[:SIZES],
            other_sizes=max(0, len(counts.sizes) - SIZES),
            widest=max((one.images for one in counts.classes), default=1),
        )
    )


def _number(check: CohortCheck, severity: str) -> int:
    return sum(finding.severity == severity and not finding.waived for finding in check.findings)


def _sections(check: CohortCheck, root: Path) -> list[_Section]:
    """Return one section per rule, in the order of the findings: errors, warnings, waived."""
    groups: dict[str, list[Finding]] = {}
    for finding in check.findings:
        groups.setdefault(finding.rule, []).append(finding)
    return [_section(findings, root) for findings in groups.values()]


def _section(findings: Sequence[Finding], root: Path) -> _Section:
    first = findings[0]
    files = list(dict.fromkeys(file for finding in findings for file in finding.files))
    pictured = SHEET if len(findings) > 1 else 1
    each = GROUP if len(findings) > 1 else SHEET
    return _Section(
        rule=first.rule,
        status="waived" if first.waived else first.severity,
        advice=first.advice,
        reason=first.waived,
        blocks=tuple(_block(finding, root, each) for finding in findings[:pictured]),
        more=tuple(finding.message for finding in findings[pictured:][:FILES]),
        files=tuple(_name(file, root) for file in files[:FILES]),
        unnamed=max(0, len(files) - FILES),
    )


def _block(finding: Finding, root: Path, most: int) -> _Block:
    shown = tuple(_Shown(_name(file, root), _data_url(file)) for file in finding.files[:most])
    message = finding.message[:1].upper() + finding.message[1:]
    return _Block(message, shown, len(finding.files) - len(shown))


def _name(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file.is_relative_to(root) else str(file)


def _data_url(file: Path) -> str:
    try:
        image = Image.fromarray(read_picture(file).alone)
    except DataError:
        return ""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
