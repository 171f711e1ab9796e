"""`cdtl privacy audit` on the command line: the verdict, the JSON, exit code 8, and an unchanged site."""

import functools
import hashlib
import json
from pathlib import Path

import pytest

from tests.conftest import Cdtl

TERMS = """
[image]
size = 32
[model]
backbone = "test_efficientnet"
weights = "random"
levels = [3, 4, 5, 6, 7]
dropout = 0.0
[train]
steps = 1
lr_decay = 0.0
[federation]
rounds = 20
[dp]
enabled = true
max_grad_norm = 0.01
multiplicity = 1
views = 0
centre_steps = 20
lr = 0.2
momentum = 0.0
"""
SITE = 'site = "north"\nmodality = "ultrasound"\ndata.phantom = { patients = 60 }\n'


@pytest.fixture
def audit(cdtl: Cdtl, tmp_path: Path) -> Cdtl:
    """`cdtl privacy audit` of these terms."""
    (tmp_path / "terms.toml").write_text(TERMS)
    return functools.partial(cdtl, "privacy", "audit", "--config", "terms.toml")


@pytest.mark.slow
@pytest.mark.ci
def test_the_whole_mechanism_is_not_refuted(audit: Cdtl) -> None:
    code, out, err = audit("--canaries", "100")
    assert (code, err) == (0, "")
    for words in ("Claim        epsilon 8.00 at delta 1e-05", "not refuted", "not prove it", "at most 3.5", "AUROC"):
        assert words in out


@pytest.mark.slow
@pytest.mark.ci
def test_no_noise_ends_in_code_8_and_json_still_stands(audit: Cdtl) -> None:
    code, out, err = audit("--canaries", "150", "--epsilon", "2", "--broken", "noise", "--json")
    assert code == 8
    assert err.startswith("Error: the audit certifies epsilon")
    assert err.count("\n") == 1
    found = json.loads(out)
    (audit,) = found["audits"]
    assert audit["refuted"]
    assert audit["as_expected"]
    assert audit["bound"] > audit["claim"]
    assert found["membership"]["private"]["members"] == 150


@pytest.mark.slow
@pytest.mark.ci
def test_all_forms_end_in_code_8_where_one_is_not_noticed(audit: Cdtl) -> None:
    code, out, err = audit("--canaries", "100", "--all")  # a hundred canaries cannot refute a claim of 8
    assert code == 8
    assert out.count("NOT as expected") == 3
    assert "noise, clip, accountant" in err


@pytest.mark.slow
@pytest.mark.ci
def test_a_site_is_left_as_it_was_but_for_its_caches(audit: Cdtl, tmp_path: Path) -> None:
    home = tmp_path / "north"
    home.mkdir()
    (home / "site.toml").write_text(SITE)
    assert audit("north", "--canaries", "50")[0] == 0
    before = contents(home)
    assert audit("north", "--canaries", "50")[0] == 0
    assert contents(home) == before
    assert not {"privacy", "memory", "models", "ledger.jsonl"} & {path.name for path in home.rglob("*")}
    assert len(list((home / "cache" / "features").glob("*/*.npy"))) == 1


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--epsilon", "0"), 3, "above 0"),
        (("nowhere",), 3, "site.toml"),
        (("--broken", "gate"), 2, "gate"),
        (("--broken", "noise", "--all"), 2, "--all"),
    ],
)
def test_wrong_input_is_one_sentence(audit: Cdtl, arguments: tuple[str, ...], code: int, says: str) -> None:
    found, _, err = audit(*arguments)
    assert found == code
    assert says in err
