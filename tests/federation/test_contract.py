"""The modality contract."""

import json

import pytest

from cdtl_core.config import RunConfig
from cdtl_core.errors import DataError, FederationError
from cdtl_core.federation.contract import ModalityContract, check_contract, load_contract, round_patients

INITIAL_WEIGHTS = "a" * 64


def contract(**fields: object) -> ModalityContract:
    base = {
        "site": "north",
        "modality": "ultrasound",
        "labels": ["benign", "malignant"],
        "positive": "malignant",
        "channels": 1,
        "bit_depth": 8,
        "patients": 120,
    }
    return ModalityContract.model_validate({**base, **fields})


def test_a_contract_that_fits_is_accepted_and_survives_json() -> None:
    found = contract(
        initial_weights_hash=INITIAL_WEIGHTS,
        label_map={"B": "benign", "normal": ""},
        statistics={"mean": 80.0, "std": 40.0},
    )
    check_contract(found, RunConfig(), INITIAL_WEIGHTS)
    assert load_contract(json.dumps(found.model_dump(mode="json")), "it") == found


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"intake_version": 0}, "intake_version"),
        ({"positive": "benign"}, "positive"),
        ({"labels": ["benign", "odd"]}, "labels"),
        ({"label_map": {"x": "cyst"}}, "label_map"),
        ({"initial_weights_hash": "b" * 64}, "initial_weights_hash"),
    ],
)
def test_a_mismatch_is_refused_in_a_sentence_that_names_the_field(fields: dict[str, object], names: str) -> None:
    with pytest.raises(FederationError, match=f"site north cannot take part: .*{names}"):
        check_contract(contract(**fields), RunConfig(), INITIAL_WEIGHTS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"modality": "sonar"}, "modality"),
        ({"patients": -1}, "patients"),
        ({"secret": 1}, "secret"),
        ({"schema_version": 9}, "schema_version 9"),
    ],
)
def test_a_malformed_contract_is_refused(change: dict[str, object], says: str) -> None:
    text = json.dumps({**contract().model_dump(mode="json"), **change})
    with pytest.raises(DataError, match=says):
        load_contract(text, "enrolment.json")
    with pytest.raises(DataError, match="not JSON"):
        load_contract("{", "enrolment.json")


@pytest.mark.parametrize(("count", "rounded"), [(0, 0), (4, 0), (5, 10), (14, 10), (15, 20), (1064, 1060)])
def test_patients_are_published_in_tens(count: int, rounded: int) -> None:
    assert round_patients(count) == rounded


def test_a_contract_before_0_2_is_read_by_its_names() -> None:
    found = contract(initial_weights_hash=INITIAL_WEIGHTS)
    earlier = found.model_dump(mode="json")
    earlier["theta0_hash"] = earlier.pop("initial_weights_hash")
    assert load_contract(json.dumps(earlier), "it") == found
