"""Bring your own: packages whose entry points add to cdtl, as a researcher uses them."""

import sys
from pathlib import Path

import pytest

from cdtl_core.models.backbones import build_backbone
from cdtl_core.results.report import Report
from tests.conftest import Cdtl
from tests.first_hour.conftest import CODE, POINTS, Install
from tests.stub import STUB

pytestmark = pytest.mark.integration


def test_one_package_brings_one_of_each_and_is_used_in_simulate_compare_and_the_lists(
    cdtl: Cdtl, install: Install, tmp_path: Path
) -> None:
    install("my-plugin", POINTS, CODE)
    listed = cdtl("config", "list")
    assert listed.code == 0, listed.err
    for name, text in (
        ("small_net", "A net of one convolution. [my-plugin 1.0]"),
        ("halved", "Half of the cross-entropy. [my-plugin 1.0]"),
        ("speckle", "Multiplicative noise. [my-plugin 1.0]"),
        ("fedbn_median", "a median [my-plugin 1.0]"),
        ("oct", "gray; DICOM Modality OPT [my-plugin 1.0]"),
    ):
        assert f"{name} {text}" in " ".join(listed.out.split())
    (tmp_path / "calls").mkdir()
    cdtl("simulate", "tiny", "--set", "federation.rounds=1", "--out", "plain")
    images = next((tmp_path / "plain" / "sites" / "north" / "cache").glob("phantoms-*"))
    data = f'sites.north.data={{root="{images}", manifest="manifest.csv"}}'
    own = [
        "federation.rounds=1",
        "model.backbone=small_net",
        "train.loss=halved",
        'train.augment.transforms=["speckle"]',
    ]
    options = [part for one in (*own, "sites.north.modality=oct", data) for part in ("--set", one)]
    assert not list((tmp_path / "calls").iterdir())
    done = cdtl("simulate", "tiny", *options, "--out", "run")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "calls").iterdir()} == {"loss", "transform"}
    report = Report.model_validate_json((tmp_path / "run" / "report.json").read_bytes())
    assert [site.modality for site in report.sites] == ["oct", "mammography"]
    assert 0 < report.sites[0].results["cdtl"].metrics["highest"] < 1  # type: ignore[operator]
    told = cdtl("predict", "run/sites/north", next(images.glob("images/*.png")))
    assert told.code == 0, told.err
    study = ("--methods", "alone,fedbn_median", "--target", "south", "--seeds", 1, "--folds", 2, "--jobs", 1)
    done = cdtl("compare", "tiny", *options, *study)
    assert done.code == 0, done.err
    assert "fedbn_median" in done.out
    checked = cdtl("data", "check", images, "--modality", "oct")
    assert "oct" not in checked.err


def test_a_loss_of_ones_own_changes_the_training_and_the_default_does_not(
    cdtl: Cdtl, install: Install, tmp_path: Path
) -> None:
    """Also where only heads are trained, whose gradient of the cross-entropy is written out."""
    same = CODE.replace("cross_entropy(logits, labels, weight) / 2", "cross_entropy(logits, labels, weight)")
    install(
        "my-plugin",
        {"losses": {"same": "my_plugin:halved", "other": "my_plugin:other"}},
        same + "\ndef other(logits, labels, weight):\n    return nn.functional.multi_margin_loss(logits, labels)\n",
    )
    frozen = [part for one in ("train.freeze=3", "train.views=1", "model.levels=[2, 3]") for part in ("--set", one)]
    found = {}
    for loss in ("cross_entropy", "same", "other"):
        for kind, more in (("whole", []), ("heads", frozen)):
            done = cdtl(
                "simulate",
                "tiny",
                "--set",
                f"train.loss={loss}",
                "--set",
                "methods=fedbn",
                "--set",
                "federation.rounds=1",
                "--set",
                f"model.backbone={STUB}",
                *more,
                "--out",
                f"{loss}-{kind}",
                "--json",
            )
            assert done.code == 0, done.err
            report = Report.model_validate_json(done.out)
            found[loss, kind] = [site.results["fedbn"].metrics["log_loss"] for site in report.sites]
    assert found["same", "whole"] == found["cross_entropy", "whole"]
    assert found["same", "heads"] == pytest.approx(found["cross_entropy", "heads"], abs=1e-4)
    assert found["other", "whole"] != found["cross_entropy", "whole"]
    assert found["other", "heads"] != pytest.approx(found["cross_entropy", "heads"], abs=1e-4)


BROKEN = {kind: {"bad_one": "bad_plugin:missing"} for kind in ("backbones", "losses", "transforms", "methods")}


def test_a_broken_package_disturbs_only_what_uses_it_and_is_named(cdtl: Cdtl, install: Install) -> None:
    install(
        "bad-plugin", BROKEN | {"modalities": {"bad_one": "bad_plugin:missing"}}, "raise ImportError('no such thing')"
    )
    small = ("--set", "federation.rounds=1", "--set", "methods=fedbn")
    assert cdtl("simulate", "tiny", *small).code == 0
    assert "bad_plugin" not in sys.modules
    for setting in (
        "model.backbone=bad_one",
        "train.loss=bad_one",
        'train.augment.transforms=["bad_one"]',
        "sites.north.modality=bad_one",
    ):
        done = cdtl("simulate", "tiny", "--set", setting)
        assert (done.code, done.err.count("\n")) == (3, 1), done.err
        assert "'bad_one' of the package bad-plugin 1.0 cannot be loaded from bad_plugin:missing" in done.err
        assert "ImportError: no such thing" in done.err
    done = cdtl("compare", "tiny", "--methods", "alone,bad_one")
    assert "the method 'bad_one' of the package bad-plugin 1.0 cannot be loaded" in done.err
    listed = cdtl("config", "list")
    shown = " ".join(listed.out.split())
    assert (listed.code, listed.err.count("of the package bad-plugin 1.0 cannot be loaded")) == (3, 5)
    assert shown.count("bad_one cannot be used [bad-plugin 1.0]") == 5
    for name in ("unet", "cross_entropy", "fedprox", "ultrasound"):  # a broken package hides nothing else
        assert name in shown


def test_a_broken_metric_is_refused_before_the_training(cdtl: Cdtl, install: Install, tmp_path: Path) -> None:
    install("bad-plugin", {"metrics": {"bad_one": "bad_plugin:missing"}}, "")
    done = cdtl("simulate", "tiny")
    assert (done.code, "the metric 'bad_one' of the package bad-plugin 1.0 cannot be loaded" in done.err) == (3, True)
    assert not (tmp_path / "runs" / "tiny").exists()


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("backbones", "number", "it is not a function that returns a torch.nn.Module"),
        ("losses", "number", "it is not a function of logits"),
        ("transforms", "number", "it is not a function of images"),
        ("metrics", "number", "it is not a function of truth"),
        ("methods", "nothing", "it is neither a cdtl_core.Method nor a function that returns one"),
        ("modalities", "number", "it is 1, not a cdtl_core.Modality called 'odd'"),
        (
            "backbones",
            "short",
            "failed (ValueError: mean is (0.1,), not three numbers): repair the package",
        ),
        ("backbones", "fails", "failed (RuntimeError: on purpose): repair the package odd-plugin"),
        ("losses", "fails", "the loss 'odd' of the package odd-plugin 1.0 failed (RuntimeError: on purpose)"),
        ("transforms", "fails", "the transform 'odd' of the package odd-plugin 1.0 failed (RuntimeError: on purpose)"),
        ("metrics", "fails", "the metric 'odd' of the package odd-plugin 1.0 failed (RuntimeError: on purpose)"),
        ("transforms", "smaller", "the transform 'odd' returned"),
    ],
)
def test_a_plugin_that_is_or_does_something_else_is_named(
    cdtl: Cdtl, install: Install, kind: str, value: str, says: str
) -> None:
    code = "number = 1\ndef nothing(): return 1\ndef smaller(images, rng): return images[:, :, 1:]\n"
    code += "def short(): nothing.mean = (0.1,); return nothing\n"
    install(
        "odd-plugin", {kind: {"odd": f"odd_plugin:{value}"}}, code + "def fails(*_): raise RuntimeError('on purpose')\n"
    )
    setting = {
        "backbones": "model.backbone=odd", "losses": "train.loss=odd", "transforms": 'train.augment.transforms=["odd"]',
        "modalities": "sites.north.modality=odd",
    }.get(kind, "seed=0")  # fmt: skip
    command = ("compare", "tiny", "--methods", "alone,odd") if kind == "methods" else ("simulate", "tiny")
    done = cdtl(*command, "--set", setting)
    assert done.code == 3, done.err
    assert says in done.err
    assert "odd-plugin" in done.err or "the transform 'odd'" in done.err
    assert "Traceback" not in done.err


def test_the_normalisation_is_read_from_the_function_and_from_its_network(install: Install) -> None:
    net = "\n\ndef built():\n    net = SmallNet()\n    net.mean, net.std = {}\n    return net\n"
    points = {"backbones": {"of_class": "a_plugin:SmallNet", "of_net": "a_plugin:built", "of_both": "b_plugin:built"}}
    install("a-plugin", points, CODE + net.format("(0.4, 0.5, 0.6), [1, 2, 3]"))
    install("b-plugin", {}, CODE + net.format("(9.0, 9.0, 9.0), torch.ones(3)") + "built.mean = (0.7, 0.8, 0.9)\n")
    found = {name: build_backbone(name, 32) for name in ("of_class", "of_net", "of_both")}
    assert {name: (one.mean, one.std) for name, one in found.items()} == {
        "of_class": ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)),
        "of_net": ((0.4, 0.5, 0.6), (1, 2, 3)),
        "of_both": ((0.7, 0.8, 0.9), (0.5, 0.5, 0.5)),  # a tensor is a part of the network
    }


def test_a_name_that_exists_twice_is_refused(cdtl: Cdtl, install: Install) -> None:
    install("one-plugin", {"losses": {"mine": "one_plugin:f"}, "backbones": {"unet": "one_plugin:f"}}, "def f(): ...")
    done = cdtl("simulate", "tiny", "--set", "model.backbone=unet", "--set", "model.weights=random")
    assert done.code == 3
    assert (
        "the backbone 'unet' of the package one-plugin 1.0 cannot be used: backbone 'unet' exists already" in done.err
    )
    install("two-plugin", {"losses": {"mine": "two_plugin:f"}}, "def f(): ...", version="2.0")
    done = cdtl("simulate", "tiny", "--set", "train.loss=mine")
    assert done.code == 3
    assert "exists twice" in done.err
    other = cdtl("simulate", "tiny", "--set", "train.loss=gone")  # the clash stops only what uses the name
    assert "cross_entropy, mine" in other.err
    assert "one-plugin 1.0" in done.err
    assert "two-plugin 2.0" in done.err


def test_what_no_package_brings_is_unknown_and_the_known_names_are_said(cdtl: Cdtl, install: Install) -> None:
    install("my-plugin", POINTS, CODE)
    assert (
        "unknown: set train.loss to one of cross_entropy, halved."
        in cdtl("simulate", "tiny", "--set", "train.loss=x").err
    )
    near = cdtl("simulate", "tiny", "--set", "train.loss=halvd").err
    assert "unknown: did you mean halved? Set train.loss to one of cross_entropy, halved." in near
    near = cdtl("simulate", "tiny", "--set", 'train.augment.transforms=["speckles"]').err
    assert "unknown: did you mean speckle? Remove it from train.augment.transforms, or use speckle." in near
    done = cdtl("simulate", "tiny", "--set", 'train.augment.transforms=["x"]')
    assert "the transform 'x' is unknown: remove it from train.augment.transforms, or use speckle." in done.err
    assert "small_net" in cdtl("simulate", "tiny", "--set", "model.backbone=x").err
    assert "oct" in cdtl("simulate", "tiny", "--set", "sites.north.modality=x").err
    assert "fedbn_median" in cdtl("compare", "tiny", "--methods", "alone,x").err


@pytest.mark.parametrize("setting", ["train.loss=halved", 'train.augment.transforms=["speckle"]'])
def test_privacy_covers_no_loss_or_change_of_ones_own(cdtl: Cdtl, setting: str) -> None:
    done = cdtl("simulate", "tiny", "--set", "dp.enabled=true", "--set", setting)
    assert done.code == 3
    assert "is not for differential privacy" in done.err
