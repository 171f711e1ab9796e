"""Prepares a study: reads the sites' images, checks every cut of every receiver, and says which cells are left."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from cdtl_core.config import SimulationConfig
from cdtl_core.config.folders import RunFolder
from cdtl_core.config.settings import save_toml
from cdtl_core.errors import CheckpointError, ConfigError, DataError
from cdtl_core.federation.site import Site
from cdtl_core.metrics.summary import load_metrics
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.results.comparison import LeftOut
from cdtl_core.simulation.arms import arm_of
from cdtl_core.simulation.cell import CELLS, cut_of, open_sites, party_of
from cdtl_core.simulation.folds import whole_fold
from cdtl_core.simulation.study import Cell, Study, cells_of
from cdtl_core.system.durable import replace_json
from cdtl_core.system.progress import report

__all__ = ["cells_left", "check_patients", "is_prepared", "prepare_study", "read_left_out"]

_COHORTS = "cohorts.json"
_LEFT_OUT = "left_out.json"


def prepare_study(config: SimulationConfig, study: Study, out: Path) -> None:
    """Decode every site's images, and check which cut of which receiver is possible.

    Repeating it changes nothing, so a study that was killed here can be resumed.
    """
    load_metrics()
    build_initial_weights(config.run.model, config.run.seed, config.run.image.size)
    for own in config.sites:
        save_toml(RunFolder(out).site(own.site).settings, own.model_dump(mode="json", exclude_none=True))
        report(preparing=own.site)
    sites = open_sites(config, out)
    check_patients(sites, out)
    left_out = list(_left_out(sites, study))
    _refuse_nothing(study, left_out)
    replace_json(out / _LEFT_OUT, [one.model_dump(mode="json") for one in left_out])


def _left_out(sites: Sequence[Site], study: Study) -> Iterator[LeftOut]:
    """Return receivers without enough patients for a size in some draw and fold, or without donors in a set."""
    takes_donors = any(arm_of(name).takes_donors for name in study.methods)
    for target in study.targets:
        receiver = next(site for site in sites if site.name == target)
        for size in study.patients:
            cells = [cell for cell in cells_of(study) if (cell.target, cell.patients) == (target, size)]
            if (why := _why_not(sites, study, cells)) is not None:
                yield LeftOut(target=target, patients=size, donors=None, why=why)
                continue
            for donors in study.donors:
                if takes_donors and len(party_of(sites, receiver, donors)) == 1:
                    why = f"site {target} has no other site" + " of another modality" * (donors == "other")
                    yield LeftOut(target=target, patients=size, donors=donors, why=f"{why}: name more with --sites.")


def _refuse_nothing(study: Study, left_out: Sequence[LeftOut]) -> None:
    """Raise an error if nothing is left to compare."""
    parts = sum(1 if one.donors else len(study.donors) for one in left_out)
    if parts == len(study.targets) * len(study.patients) * len(study.donors):
        raise ConfigError(left_out[0].why) if left_out[0].donors else DataError(left_out[0].why)


def _why_not(sites: Sequence[Site], study: Study, cells: Sequence[Cell]) -> str | None:
    try:
        for cell in cells:
            cut_of(sites, study, cell)
    except DataError as error:
        return str(error)
    return None


def check_patients(sites: Sequence[Site], out: Path) -> None:
    """Check that a site's patients have not changed, since cells name images by their index.

    Raises:
        CheckpointError: A site's patients have changed since the study in `out` began.
    """
    wholes = {site.name: whole_fold(site.cohort) for site in sites}
    found = {
        name: hashlib.sha256(whole.labels.tobytes() + whole.patients.tobytes()).hexdigest()
        for name, whole in wholes.items()
    }
    path = out / _COHORTS
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else found
    for name in found:
        if before[name] != found[name]:
            raise CheckpointError(f"the patients of site {name} have changed since {out} began: start a new study.")
    if not path.exists():
        replace_json(path, found)


def is_prepared(out: Path) -> bool:
    """Whether `prepare_study` has ended once."""
    return (out / _LEFT_OUT).exists()


def read_left_out(out: Path) -> list[LeftOut]:
    """Return the receivers that are left out at some size."""
    return [LeftOut.model_validate(one) for one in json.loads((out / _LEFT_OUT).read_text(encoding="utf-8"))]


def cells_left(study: Study, out: Path) -> list[Cell]:
    """Return the cells without a file."""
    return [cell for cell in cells_of(study, read_left_out(out)) if not (out / CELLS / cell.file).exists()]
