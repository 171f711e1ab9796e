"""Federations of exams: different numbers of images per exam at the sites, and one image as it always was."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from safetensors.numpy import load_file

from cdtl_core.config import Pooling, SimulationConfig, Unit
from cdtl_core.errors import FederationError
from cdtl_core.federation.contract import check_contract, own_name, wire_name
from cdtl_core.federation.egress import egress_manifest
from cdtl_core.federation.egress_check import check_outline
from cdtl_core.federation.packing import outline, unpacked
from cdtl_core.inference.export import export_onnx
from cdtl_core.inference.model_folder import load_model
from cdtl_core.results.scores import read_scores
from cdtl_core.simulation.simulate import simulate
from cdtl_core.site.cohort import contract_of
from cdtl_core.site.home import open_site
from cdtl_core.training.device import CPU
from cdtl_core.training.scoring import score, weigh
from tests.conftest import Played, Run

Tiny = Callable[..., SimulationConfig]
HEADS: dict[str, Any] = {
    "model": {"levels": [2, 3]},
    "train": {"freeze": 3, "views": 1, "exam_images": 3},
}


def sites(**images: Any) -> list[dict[str, Any]]:
    """Sites whose exams have these numbers of images."""
    found = []
    for seed, (name, count) in enumerate(images.items()):
        modality = {"alba": "ultrasound", "bari": "mammography", "como": "histology"}[name]
        phantom = {"patients": 14, "seed": seed, **({"images": count} if count else {})}
        found.append({"site": name, "modality": modality, "data": {"phantom": phantom}})
    return found


MIXED = sites(alba=(2, 5), bari=4, como=None)


def values(out: Path) -> dict[str, np.ndarray]:
    """All tensors of all models, without those that only attention has."""
    found = {}
    for path in sorted(out.glob("sites/*/models/*/*.safetensors")):
        for name, value in load_file(path).items():
            if "pooling." not in name:
                found[f"{path.relative_to(out)}: {name}"] = value
    return found


def scores(out: Path) -> dict[str, str]:
    files = [path for kind in ("scores.csv", "validation.csv") for path in out.glob(f"sites/*/models/*/{kind}")]
    return {str(path.relative_to(out)): path.read_text() for path in sorted(files)}


@pytest.mark.parametrize(
    ("pooling", "heads"),
    [
        ("mean", True),
        ("attention", False),
        *(
            pytest.param(*one, marks=[pytest.mark.slow, pytest.mark.ci])
            for one in (("max", True), ("lse", True), ("attention", True), ("mean", False))
        ),
    ],
)
def test_with_one_image_in_each_exam_a_run_has_the_bits_of_images(
    tiny: Tiny, played: Played, tmp_path: Path, pooling: Pooling, heads: bool
) -> None:
    more = HEADS if heads else {}
    images = played(tiny(methods=("alone", "fedbn", "cdtl"), **more)).out
    model = {**more.get("model", {}), "pooling": pooling}
    exams = simulate(
        tiny(methods=("alone", "fedbn", "cdtl"), **{**more, "model": model, "task": {"unit": "exam"}}), tmp_path / "run"
    )
    before, after = values(images), values(tmp_path / "run")
    if pooling != "attention":
        assert before.keys() == after.keys()
    assert all(value.tobytes() == after[name].tobytes() for name, value in before.items() if name in after)
    assert scores(images) == scores(tmp_path / "run")
    assert len(exams.sites) == 3


@pytest.fixture(params=[
                    ("max", True),
                    ("attention", False),
                    *(pytest.param(one, marks=[pytest.mark.slow, pytest.mark.ci])
                      for one in (("mean", True), ("lse", True), ("attention", True), ("mean", False))),
                ],
                ids=lambda one: f"{one[0]}-{'heads' if one[1] else 'networks'}")  # fmt: skip
def mixed(request: pytest.FixtureRequest, tiny: Tiny, played: Played) -> tuple[Run, SimulationConfig]:
    """A run over exams of different lengths."""
    pooling, heads = request.param
    more = HEADS if heads else {"train": {"exam_images": 3}}
    model = {**more.get("model", {}), "pooling": pooling}
    config = tiny(sites=MIXED, **{**more, "model": model, "task": {"unit": "exam"}})
    return played(config), config


def test_every_score_is_an_exams(mixed: tuple[Run, SimulationConfig]) -> None:
    run, config = mixed
    for own in config.sites:
        home = run.out / "sites" / own.site
        cohort = open_site(home, config.of_method("cdtl")).cohort
        test = read_scores(home / "models" / "tiny-cdtl")
        assert test is not None
        assert test.images == cohort.names(cohort.folds["test"])
        assert len(test.positive) == cohort.folds["test"].num_units
        with open(home / "models" / "tiny-cdtl" / "scores.csv") as file:
            assert len(list(csv.reader(file))) == 1 + cohort.folds["test"].num_units
    lengths = {one.site: open_site(run.out / "sites" / one.site, config.run).cohort.folds for one in config.sites}
    assert {int(n) for n in lengths["alba"]["train"].lengths} <= {2, 3, 4, 5}
    assert {int(n) for n in lengths["bari"]["train"].lengths} == {4}
    assert not lengths["como"]["train"].has_several
    assert all(site.images.train >= site.patients.train for site in run.report.sites)


def test_a_model_folder_scores_exams_as_the_run_did_and_weighs_their_images(
    mixed: tuple[Run, SimulationConfig], tmp_path: Path
) -> None:
    run, config = mixed
    model_config = config.run.model
    for own in config.sites:
        folder = run.out / "sites" / own.site / "models" / "tiny-cdtl"
        network, note = load_model(folder)
        fold = open_site(run.out / "sites" / own.site, config.of_method("cdtl")).cohort.folds["test"]
        told = read_scores(folder)
        assert told is not None
        assert (note.unit, note.pooling) == ("exam", model_config.pooling)
        assert np.exp(score(network, fold, device=CPU))[:, 1] == pytest.approx(told.used, abs=2e-3)  # features: float16
        weights = weigh(network, fold, device=CPU)
        assert np.bincount(fold.of_images(np.arange(fold.num_units)), weights) == pytest.approx(np.ones(fold.num_units))
        if model_config.pooling == "attention" and model_config.levels and own.site == "alba":
            assert note.networks == 2  # own and joint model weigh images differently
            assert export_onnx(folder, tmp_path / "exam.onnx").largest_difference < 1e-5


def test_the_egress_list_is_what_replies_of_exams_hold(mixed: tuple[Run, SimulationConfig]) -> None:
    run, config = mixed
    manifest = egress_manifest(config.of_method("cdtl"), site="alba", modality="ultrasound")
    held = [
        (reply.metadata.message_type, outline(unpacked(reply.content)))
        for _, reply in run.messages
        if reply.metadata.src_node_id == 101
    ]
    assert {check_outline(manifest, kind, one) for kind, one in held} == {""}
    trained = [one for kind, one in held if kind == "train"][-1]
    assert trained.arrays == manifest.replies["train"].arrays
    shared = {name for name in trained.arrays["delta"] if ".pooling." in name}
    assert len(shared) == (5 if config.run.model.pooling == "attention" else 0)


def test_a_head_that_stays_keeps_its_attention_at_the_site(tiny: Tiny, played: Played) -> None:
    config = tiny(
        sites=MIXED,
        share={"head": False},
        task={"unit": "exam"},
        model={"pooling": "attention"},
        train={"exam_images": 3},
    )
    run = played(config)
    sent = [outline(unpacked(reply.content)).arrays for _, reply in run.messages]
    names = {name for arrays in sent for record in arrays.values() for name in record}
    assert names
    assert not any(name.startswith("head.") or "pooling" in name for name in names)
    (memory,) = (run.out / "sites" / "alba" / "memory" / "tiny-cdtl").glob("round-0003.safetensors")
    kept = {name: value for name, value in load_file(memory).items() if name.startswith("pooling.")}
    assert len(kept) == 5
    assert all(value.any() for value in kept.values())  # it was trained, over all rounds


def test_a_patient_with_all_her_images_has_one_score(tiny: Tiny, played: Played) -> None:
    config = tiny(task={"unit": "patient"}, model={"pooling": "max"})
    run = played(config)
    for own in run.report.sites:
        home = run.out / "sites" / own.name
        test, fold = read_scores(home / "models" / "tiny-cdtl"), open_site(home, config.run).cohort.folds["test"]
        assert test is not None
        assert len(test.patients) == len(set(test.patients.tolist())) == own.patients.test == fold.num_units
        assert own.images.test == fold.num_images >= own.patients.test
    assert any(own.images.test > own.patients.test for own in run.report.sites)


def test_a_private_federation_of_exams_sends_what_its_list_names_and_no_figure(tiny: Tiny, played: Played) -> None:
    patients = [{**site, "data": {"phantom": {**site["data"]["phantom"], "patients": 40}}} for site in MIXED]
    config = tiny(
        sites=patients,
        task={"unit": "exam"},
        model={"levels": [2, 3], "pooling": "attention", "dropout": 0.2},
        train={"exam_images": 2},
        dp={"enabled": True, "target_epsilon": 8.0, "centre_steps": 1},
    )
    run = played(config)
    listed = egress_manifest(config.of_method("cdtl"), private=True).replies["train"]
    replies = [outline(unpacked(reply.content)) for _, reply in run.messages if reply.metadata.message_type == "train"]
    assert len(replies) == 9
    for held in replies:
        assert held.arrays == {"delta": listed.arrays["delta"]}
        assert set(held.metrics["metrics"]) == {"round", "spent"}
    for site in run.report.sites:
        assert 0 < site.privacy["cdtl"].epsilon_rdp <= 8.0
        test = read_scores(run.out / "sites" / site.name / "models" / "tiny-cdtl")
        assert test is not None
        assert len(test.images) == len(set(test.images)) >= site.patients.test


def test_sites_agree_on_the_unit(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(sites=sites(alba=3), task={"unit": "exam"})
    simulate(config, tmp_path / "run")
    home = tmp_path / "run" / "sites" / "alba"
    contract = contract_of(home, open_site(home, config.run).cohort, config.run.task)
    assert contract.unit == "exam"
    check_contract(contract, config.run, "")
    for unit in get_args(Unit):
        task = config.run.task.model_copy(update={"unit": unit})
        other = config.run.model_copy(update={"task": task})
        if unit != "exam":
            with pytest.raises(FederationError, match=rf"unit = 'exam', but the run has '{unit}': enrol again"):
                check_contract(contract, other, "")


def test_attention_belongs_to_the_head_in_messages() -> None:
    for name in ("head.weight", "pooling.score.weight"):
        wire = wire_name(name, "0" * 8)
        assert wire.startswith("head.00000000.")
        assert own_name(wire) == name
    assert wire_name("backbone.pooling.weight", "0" * 8) == "backbone.pooling.weight"
