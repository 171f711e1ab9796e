"""Packages that clash or are broken: they stop only what uses their names."""

import re
from pathlib import Path

import pytest

from tests.conftest import Cdtl
from tests.first_hour.conftest import CODE, POINTS, Install

pytestmark = pytest.mark.integration
UNUSED = {kind: named for kind, named in POINTS.items() if kind != "metrics"}
"""Metrics have no unused names: every report has them all."""


def test_a_name_of_two_packages_is_listed_with_both(cdtl: Cdtl, install: Install) -> None:
    install("my-plugin", POINTS, CODE)
    install("your-plugin", {kind: dict.fromkeys(named, "gone:x") for kind, named in POINTS.items()}, "", version="2.0")
    listed = cdtl("config", "list")
    assert (listed.code, listed.err) == (0, "")
    shown = re.sub(r"\s+", " ", listed.out)
    for names in POINTS.values():
        (name,) = names
        assert f" {name} cannot be used: my-plugin 1.0 and your-plugin 2.0 bring it; remove all but one" in shown
    assert "fedprox" in shown
    assert "ultrasound" in shown
    assert "log_loss" in shown


def test_a_clash_of_a_name_that_is_not_used_stops_no_command(cdtl: Cdtl, install: Install) -> None:
    install("my-plugin", UNUSED, CODE)
    install("your-plugin", UNUSED, CODE)
    _all_work(cdtl)
    unknown = cdtl("simulate", "tiny", "--set", "sites.north.modality=x")
    assert "modality 'x' is unknown: use one of ultrasound" in unknown.err
    assert "oct" in unknown.err
    used = cdtl("simulate", "tiny", "--set", "sites.north.modality=oct")
    assert (used.code, "the modality 'oct' of the package my-plugin 1.0 exists twice" in used.err) == (3, True)


def test_a_broken_plugin_that_is_not_used_stops_no_command(cdtl: Cdtl, install: Install) -> None:
    install("my-plugin", UNUSED, "raise ImportError('no such thing')")
    _all_work(cdtl)
    unknown = cdtl("simulate", "tiny", "--set", "sites.north.modality=x")
    assert "modality 'x' is unknown: use one of ultrasound" in unknown.err
    listed = cdtl("config", "list")
    assert listed.code == 3
    assert "Policies:" in listed.out
    assert "log_loss" in listed.out
    assert listed.err.count("cannot be loaded from my_plugin:") == len(UNUSED)


def test_a_metric_of_two_packages_is_refused_before_the_training(cdtl: Cdtl, install: Install, tmp_path: Path) -> None:
    """Every report has all metrics, so this name is always used."""
    install("my-plugin", {"metrics": POINTS["metrics"]}, CODE)
    install("your-plugin", {"metrics": POINTS["metrics"]}, CODE)
    done = cdtl("simulate", "tiny")
    assert (done.code, "the metric 'highest' of the package my-plugin 1.0 exists twice" in done.err) == (3, True)
    assert not (tmp_path / "runs" / "tiny").exists()
    assert cdtl("config", "check", "tiny").code == 0


def _all_work(cdtl: Cdtl) -> None:
    made = cdtl("site", "init", "north", "--name", "north", "--modality", "mri", "--phantom", 16)
    assert made.code == 0, made.err
    small = ("--set", "federation.rounds=1", "--set", "methods=fedbn")
    checked = cdtl("config", "check", "tiny", *small)
    assert checked.code == 0, checked.err
    played = cdtl("simulate", "tiny", *small)
    assert played.code == 0, played.err
    study = ("--methods", "alone", "--target", "south", "--seeds", 1, "--folds", 2, "--jobs", 1)
    compared = cdtl("compare", "tiny", *study)
    assert compared.code == 0, compared.err
