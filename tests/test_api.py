"""The library: what ``import cdtl_core`` offers, what it costs, its examples, and what is brought from outside."""

import ast
import doctest
import inspect
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from torch import nn

import cdtl_core as cdtl
from cdtl_core.config.modalities import MODALITIES
from cdtl_core.data.transforms import TRANSFORMS
from cdtl_core.metrics import summary
from cdtl_core.models.backbones import build_backbone
from cdtl_core.models.own_nets import OWN
from cdtl_core.simulation.arms import arm_of
from cdtl_core.simulation.methods import coordinated
from cdtl_core.simulation.methods.registry import METHODS
from cdtl_core.system.shipped import bundle_root
from cdtl_core.training.objective import LOSSES

ROOT = bundle_root()
SOURCE = ast.parse((ROOT / "cdtl_core" / "__init__.py").read_text())
TINY = tomllib.loads((ROOT / "configs" / "tiny.toml").read_text())


@pytest.fixture(autouse=True)
def _nothing_stays_registered() -> Iterator[None]:
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (known, dict(known))
        for known in (MODALITIES, METHODS, OWN, summary._REGISTERED, LOSSES.functions, TRANSFORMS.functions)
    ]
    yield
    for known, before in kept:
        known.clear()
        known.update(before)


@pytest.mark.integration
def test_importing_the_library_loads_nothing_heavy_and_takes_less_than_a_tenth_of_a_second() -> None:
    code = (
        "import time; began = time.process_time(); import cdtl_core, sys; spent = time.process_time() - began\n"
        "print(spent, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    spent, *loaded = out.split()
    assert not {"torch", "flwr", "numpy", "pydantic", "timm", "typer"} & set(loaded)
    assert float(spent) < 0.1


def test_every_public_name_is_there_and_is_what_type_checkers_are_told() -> None:
    guarded = next(node for node in SOURCE.body if isinstance(node, ast.If))
    told = {name.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert {name: f"cdtl_core{place}" for name, place in cdtl._PLACES.items()} == told
    for name in cdtl.__all__:
        value = getattr(cdtl, name)
        assert value is getattr(import_module(told[name]), name) if name in told else value is not None  # type: ignore[arg-type]
    assert set(cdtl.__all__) <= set(dir(cdtl))
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = cdtl.train  # type: ignore[attr-defined]


def test_every_public_function_is_typed_and_documented_with_what_it_takes_returns_and_raises() -> None:
    functions = [getattr(cdtl, name) for name in cdtl.__all__ if name[0].islower()]
    assert len(functions) > 12
    for function in map(inspect.unwrap, functions):  # conftest keeps what `write_phantoms` has drawn
        text, hints = function.__doc__ or "", get_type_hints(function)
        taken = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
        assert hints.keys() == {*taken, "return"}, function.__name__
        assert "    Raises:" in text, function.__name__
        assert "    Returns:" in text or hints["return"] is type(None), function.__name__
        assert all(f"    {name}: " in text for name in taken), function.__name__
        assert ">>> " in text, function.__name__


@pytest.mark.integration
def test_the_examples_of_the_public_names_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that holds a run and an image, as the examples of `load_model` and `predict` have it."""
    monkeypatch.chdir(tmp_path)
    cdtl.simulate(cdtl.load_config("tiny"), "runs/demo")
    image = next(Path("runs/demo/sites/north").glob("cache/*/images/*.png"))
    shutil.copyfile(image, "lesion.png")
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tried = 0
    for name in ("", *cdtl.__all__):
        found = getattr(cdtl, name) if name else cdtl
        for example in finder.find(found, name or "cdtl_core", globs={}) if found.__doc__ else ():
            tried += bool(example.examples)
            assert runner.run(example).failed == 0, example.name
    assert tried > 12


@pytest.mark.integration
def test_own_modality_backbone_method_and_metric_are_played_and_named_in_the_result(tmp_path: Path) -> None:
    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    cdtl.register_backbone("small_net", Net, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    cdtl.register_modality(cdtl.Modality("oct", colour=False, dicom=("OPT",)))
    cdtl.register_method("fedbn_median", coordinated({"method": "fedbn", "aggregate": {"robust": "median"}}))
    cdtl.register_metric("highest", lambda positive, probability: float(probability.max()))
    cdtl.register_metric("none", lambda positive, probability: float("nan"))
    assert build_backbone("small_net", 32).mean == (0.1, 0.2, 0.3)
    manifest = cdtl.write_phantoms(tmp_path / "images", modality="mri", num_patients=16, seed=0, size=32)
    oct_ = {"site": "oct", "modality": "oct", "data": {"root": manifest.parent, "manifest": "manifest.csv"}}
    settings = {**TINY, "sites": [*TINY["sites"], oct_]}
    config = cdtl.load_config(settings, ["model.backbone=small_net"])

    report = cdtl.simulate(config, tmp_path / "run")
    assert [site.modality for site in report.sites] == ["ultrasound", "mammography", "oct"]
    for site in report.sites:
        figures = site.results["cdtl"].metrics
        assert 0 < figures["highest"] < 1  # type: ignore[operator]
        assert figures["none"] is None
    assert cdtl.load_model(tmp_path / "run" / "sites" / "oct")[1].backbone == "small_net"

    study = cdtl.study_of(config, methods=("alone", "fedbn_median"), targets=["oct"], seeds=1, folds=2)
    result = cdtl.compare(config, study, tmp_path / "study", jobs=1)
    assert set(result.points[0].results) == {"alone", "fedbn_median"}
    assert "highest" in result.points[0].results["alone"].metrics


@pytest.mark.parametrize(
    ("register", "says"),
    [
        (lambda: cdtl.register_modality(cdtl.Modality("mri", colour=False, dicom=())), "modality 'mri' exists already"),
        (lambda: cdtl.register_modality(cdtl.Modality("oct", colour=False, dicom=("US",))), "US belongs to ultrasound"),
        (lambda: cdtl.register_modality(cdtl.Modality("Ö", colour=False, dicom=())), "use a-z"),
        (lambda: cdtl.register_backbone("unet", nn.Identity), "backbone 'unet' exists already"),
        (lambda: cdtl.register_backbone("resnet18", nn.Identity), "backbone 'resnet18' exists already"),
        (lambda: cdtl.register_backbone("googlenet", nn.Identity), "backbone 'googlenet' exists already"),
        (lambda: cdtl.register_backbone("efficientnet_lite0", nn.Identity), "exists already"),
        (lambda: cdtl.register_backbone("a/b", nn.Identity), "use letters"),
        (lambda: cdtl.register_method("fedavg", coordinated({})), "method 'fedavg' exists already"),
        (lambda: cdtl.register_method("ensemble", coordinated({})), "method 'ensemble' exists already"),
        (lambda: cdtl.register_method("cdtl:shuffled", coordinated({})), "use a-z"),
        (lambda: cdtl.register_metric("brier", lambda _truth, _score: 0.0), "metric 'brier' exists already"),
        (lambda: cdtl.register_metric("auroc", lambda _truth, _score: 0.0), "metric 'auroc' exists already"),
        (lambda: cdtl.register_metric("Youden", lambda _truth, _score: 0.0), "use a-z"),
    ],
)
def test_a_name_that_exists_or_is_malformed_is_refused_with_a_sentence(register: Any, says: str) -> None:
    with pytest.raises(cdtl.ConfigError, match=says) as error:
        register()
    assert str(error.value).endswith(".")


def test_a_name_is_registered_once() -> None:
    cdtl.register_metric("mine", lambda _truth, _score: 0.0)
    cdtl.register_method("mine", coordinated({"method": "fedbn"}))
    assert arm_of("mine").takes_donors
    for register in (cdtl.register_metric, cdtl.register_method):
        with pytest.raises(cdtl.ConfigError, match="exists already"):
            register("mine", None)  # type: ignore[arg-type, operator]


def test_settings_come_from_a_dictionary_as_from_a_file_and_leave_it_alone() -> None:
    before = json.dumps(TINY)
    config = cdtl.load_config(TINY, ["train.lr=0.25", "sites.south.modality=mri"])
    assert json.dumps(TINY) == before
    assert (config.run.train.lr, config.sites[1].modality) == (0.25, "mri")
    assert cdtl.load_config("demo") == cdtl.load_config(ROOT / "configs" / "demo.toml")
    with pytest.raises(cdtl.ConfigError, match=r"^train\.lrr in the settings is unknown"):
        cdtl.load_config(TINY, ["train.lrr=1"])
    with pytest.raises(cdtl.ConfigError, match="a shipped name"):
        cdtl.load_config("nothing")


def test_a_used_folder_names_what_continues_its_run(tmp_path: Path) -> None:
    (out := tmp_path / "run").mkdir()
    (out / "config.toml").touch()
    config = cdtl.load_config("tiny")
    study = cdtl.study_of(config, methods=("alone",), seeds=1, folds=2)
    for start, name in (
        (lambda: cdtl.simulate(config, out), "resume_simulation"),
        (lambda: cdtl.compare(config, study, out, jobs=1), "resume_comparison"),
    ):
        with pytest.raises(cdtl.CheckpointError, match="is not empty") as caught:
            start()
        assert f"--resume {out} (in Python: {name}({str(out)!r}))" in str(caught.value)
        assert hasattr(cdtl, name)


def test_a_site_opens_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('site = "north"\nmodality = "mri"\ndata.phantom = { patients = 16 }\n')
    site = cdtl.open_site(str(tmp_path), cdtl.load_config("tiny").run)
    assert site.modality == "mri"
    assert site.cohort.num_patients == 16
    assert np.isin(site.cohort.folds["train"].labels, [0, 1]).all()
