"""A site's application, and a coordinator's folder."""

from pathlib import Path
from typing import Any

import pytest

from cdtl_core.deploy.enrolment import Enrolment, make_enrolment
from cdtl_core.deploy.keys import load_key, make_key
from cdtl_core.federation.contract import ModalityContract
from tests.deploy.border import border
from tests.deploy.desk import desk, open_desk
from tests.deploy.entrance import coordinator, enrolled, north
from tests.tables import Figures

__all__ = ["Figures", "border", "coordinator", "desk", "enrolled", "north", "open_desk"]


def contract(site: str, **fields: Any) -> ModalityContract:
    base = {
        "site": site,
        "modality": "ultrasound",
        "labels": ["benign", "malignant"],
        "positive": "malignant",
        "channels": 1,
        "bit_depth": 8,
        "patients": 120,
    }
    return ModalityContract.model_validate({**base, **fields})


@pytest.fixture
def enrol(tmp_path: Path) -> Any:
    """Make a site's key (once for each folder) and its enrolment."""

    def make(site: str, *, folder: str | None = None, **fields: Any) -> Enrolment:
        home = tmp_path / (folder or site)
        key = load_key(home) if (home / "site.key").exists() else make_key(home)
        return make_enrolment(key, contract(site, **fields))

    return make
