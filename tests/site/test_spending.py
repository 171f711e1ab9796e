"""Warnings of a site before private training: unbounded steps, and runs without privacy."""

from pathlib import Path

import numpy as np
import pytest

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import save_toml
from cdtl_core.errors import PrivacyError
from cdtl_core.privacy.ledger import Budget, commit, reserve
from cdtl_core.privacy.ledger_file import read_ledger
from cdtl_core.site.home import open_site
from cdtl_core.site.spending import ledger_of
from tests.privacy.test_ledger import of_earlier_version

CONFIG = RunConfig.model_validate(
    {
        "image": {"size": 32},
        "model": {"backbone": "test_efficientnet", "weights": "random"},
        "dp": {"enabled": True},
    }
)
BUDGET = Budget(target_epsilon=8.0, target_delta=1e-5, sample_rate=1.0, steps=4)


def site_of(home: Path, **privacy: object) -> SiteConfig:
    own = SiteConfig.model_validate(
        {"site": "north", "modality": "ultrasound", "data": {"phantom": {"patients": 24}}, "privacy": privacy}
    )
    home.mkdir(exist_ok=True)
    save_toml(home / SITE_FILE, own.model_dump(mode="json", exclude_none=True))
    return own


@pytest.mark.attack("The ledger's epsilon is a bound", "train on after steps of the faulty mechanism")
def test_a_site_with_steps_of_the_faulty_mechanism_trains_on_only_if_it_says_so(tmp_path: Path) -> None:
    home = tmp_path / "north"
    own = site_of(home)
    site = open_site(home, CONFIG)
    ledger_of(home, own, CONFIG, site, "old-cdtl")
    reservation = reserve(home / "privacy", run="old-cdtl", round=1, steps=4, budget=BUDGET)
    assert reservation is not None
    commit(home / "privacy", reservation, 4)
    of_earlier_version(home / "privacy")
    with pytest.raises(PrivacyError, match=r"privacy\.accept_faulty_steps"):
        ledger_of(home, own, CONFIG, site, "next-cdtl")
    own = site_of(home, accept_faulty_steps=True)
    assert ledger_of(home, own, CONFIG, site, "next-cdtl").history == ()


def test_runs_without_privacy_are_in_the_ledger_before_the_next_private_one(tmp_path: Path) -> None:
    home = tmp_path / "north"
    own = site_of(home)
    (home / "rounds").mkdir()
    (home / "rounds" / "open-cdtl.jsonl").write_text('{"round": 1, "val_loss": 0.5}\n')
    ledger_of(home, own, CONFIG, open_site(home, CONFIG), "next-cdtl")
    assert read_ledger(home / "privacy").unprotected == ("open-cdtl",)


def test_a_patients_identity_does_not_depend_on_other_patients(tmp_path: Path) -> None:
    home = tmp_path / "north"
    site_of(home)
    folds = open_site(home, CONFIG).cohort.folds
    known = np.concatenate([fold.identities for fold in folds.values()])
    numbers = np.concatenate([fold.patients for fold in folds.values()])
    assert len(np.unique(known)) == len(np.unique(numbers)) == 24
    manifest = next(home.rglob("manifest.csv"))
    head, first, *rest = manifest.read_text().splitlines()
    patient = first.split(",")[head.split(",").index("patient_id")]
    manifest.write_text("\n".join([head, *(line for line in rest if patient not in line.split(","))]) + "\n")
    (home / SITE_FILE).write_text((home / SITE_FILE).read_text() + "\n# opened again\n")
    fewer = open_site(home, CONFIG.model_copy(update={"name": "again"})).cohort.folds
    left = np.concatenate([fold.identities for fold in fewer.values()])
    assert len(np.unique(left)) == 23
    assert set(left) < set(known)
