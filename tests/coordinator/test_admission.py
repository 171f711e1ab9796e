"""A site's introduction is compared with its enrolment."""

from pathlib import Path

import pytest

from cdtl_core.config.folders import RunFolder
from cdtl_core.coordinator.admission import checked_number, enrolled_contracts
from cdtl_core.errors import FederationError
from cdtl_core.federation.contract import ModalityContract
from cdtl_core.federation.state import Member
from cdtl_core.system.durable import replace_json


def contract(patients: int, modality: str = "ultrasound") -> ModalityContract:
    return ModalityContract(
        site="north",
        modality=modality,
        labels=("benign", "malignant"),
        positive="malignant",
        channels=1,
        bit_depth=8,
        patients=patients,
    )


def member(number: int) -> Member:
    return Member("north", "ultrasound", number, "L")


def test_an_honest_number_stays() -> None:
    assert checked_number(member(72), contract(120), contract(120)).num_patients == 72
    assert checked_number(member(900), contract(900), None).num_patients == 900


def test_a_contract_other_than_the_admitted_one_is_refused_with_what_to_do() -> None:
    with pytest.raises(FederationError, match="with another patients"):
        checked_number(member(900), contract(900), contract(120))


@pytest.mark.parametrize("number", [0, -5, 125, 10**9])
def test_a_number_that_its_own_contract_denies_is_refused(number: int) -> None:
    with pytest.raises(FederationError, match="patients of 120"):
        checked_number(member(number), contract(120), None)


def test_a_modality_other_than_enrolled_is_refused() -> None:
    with pytest.raises(FederationError, match="admitted with another modality"):
        checked_number(member(72), contract(120), contract(120, "mri"))


def test_enrolments_are_read_back_and_a_damaged_file_is_said(tmp_path: Path) -> None:
    assert enrolled_contracts(RunFolder(tmp_path)) == {}
    replace_json(tmp_path / "enrolled.json", {"north": contract(120).model_dump(mode="json")})
    assert enrolled_contracts(RunFolder(tmp_path)) == {"north": contract(120)}
    for damage in ("{", "[]", '{"north": 3}'):
        (tmp_path / "enrolled.json").write_text(damage)
        with pytest.raises(FederationError, match="cannot be read"):
            enrolled_contracts(RunFolder(tmp_path))
