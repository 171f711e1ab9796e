"""Damaged input: a bounded part of `make fuzz`, by hypothesis and by the mutator."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdtl_core.data.source import rows_of_manifest
from cdtl_core.errors import DataError
from cdtl_core.federation.packing import numbers_of
from cdtl_core.system.shipped import bundle_root
from tests.faults.decoders import Decoder, decoders, numpy_files
from tests.faults.fuzz import OUTCOMES, attempt, bounded, peak_mb, run
from tests.tables import Tries

CODE = ("cdtl_core", "server", "client", "simulations")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Decoder]:
    return decoders(tmp_path_factory.mktemp("readers"))


@pytest.mark.attack("a message never names a path", "damaged messages and files with paths in them")
def test_thousands_of_damaged_inputs_give_a_value_or_an_own_error(tmp_path: Path, tries: Tries) -> None:
    found = run(6000, 11, tmp_path)
    tries.add(6000)
    strange = {name: count for name, count in found.items() if " -> " in name and name.split(" -> ")[1] not in OUTCOMES}
    assert strange == {}
    assert sum(count for name, count in found.items() if " -> " not in name) == 6000


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes_and_any_cut_give_a_value_or_an_own_error(table: dict[str, Decoder], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(table)))
    whole = data.draw(st.sampled_from(table[name].seeds))
    cut = data.draw(st.integers(0, len(whole)))
    text = whole[:cut] + data.draw(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
    assert attempt(table[name], text) in OUTCOMES, name


def test_whole_inputs_are_read(tmp_path: Path) -> None:
    """The fuzzer would prove nothing if its examples were damaged from the start."""
    table = decoders(tmp_path)
    refused = [name for name in table if attempt(table[name], table[name].seeds[0]) != OUTCOMES[0]]
    asked = ["message: question"]  # that site has no images
    assert refused == [*asked, "model_card.json"]  # an example of a card with all its fields would be another test's


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(4, 1000000000000)", "(-1,)", "(2,)*9", "()"])
@pytest.mark.parametrize("whole", numpy_files())
def test_a_forged_shape_allocates_nothing(whole: bytes, shape: str) -> None:
    header = whole[10 : 10 + int.from_bytes(whole[8:10], "little")]
    forged = re.sub(rb"'shape': \([^)]*\)", b"'shape': " + shape.encode(), header)
    data = whole[:8] + len(forged).to_bytes(2, "little") + forged + whole[10 + len(header) :]
    before = peak_mb()
    with pytest.raises(ValueError, match="no array"):
        numbers_of(data)
    assert peak_mb() - before < 50


def test_objects_are_not_unpickled() -> None:
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with bounded(), pytest.raises(ValueError, match="no array"):
        numbers_of(file.getvalue())


def test_no_code_of_ours_unpickles() -> None:
    """Pickle runs code that the file brings along: weights are safetensors, records are JSON, CSV or TOML."""
    banned = re.compile(
        r"\bpickle\b|\bdill\b|\bjoblib\b|\bshelve\b|\bmarshal\b|torch\.load\(|allow_pickle=True|yaml\.load\(|\beval\(|\bexec\("
    )
    found = []
    files = [path for room in CODE for path in (bundle_root() / room).rglob("*.py")]
    assert len(files) > 200
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if banned.search(line) and ".eval()" not in line and "weights_only=True" not in line:
                found.append(f"{path.name}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize("file", ["../secret.png", "a/../../secret.png", "..", "a/../../b/c.png"])
def test_a_manifest_does_not_lead_out_of_its_folder_by_a_relative_path(tmp_path: Path, file: str) -> None:
    (tmp_path / "manifest.csv").write_text(f"file,label,patient_id\n{file},benign,p1\n")
    with pytest.raises(DataError, match="leads out of"):
        rows_of_manifest(tmp_path / "manifest.csv")


@pytest.mark.parametrize("file", ["a.png", "a/b.png", "a/../b.png", "..a/b.png"])
def test_a_manifest_leads_to_what_lies_below_it(tmp_path: Path, file: str) -> None:
    (tmp_path / "manifest.csv").write_text(f"file,label,patient_id\n{file},benign,p1\n")
    assert [row.file for row in rows_of_manifest(tmp_path / "manifest.csv")] == [tmp_path / file]
