"""The result table, made from a report."""

import math
from pathlib import Path

import pytest

from cdtl_core.cli.table import print_report
from cdtl_core.metrics.metrics import Interval
from cdtl_core.results.report import Bytes, Counts, Estimate, MethodResult, ModelChoice, Report, SiteReport


def site(name: str, gain: tuple[float, float, float]) -> SiteReport:
    auroc = Estimate(value=0.8, low=0.7, high=0.9)
    return SiteReport(
        name=name,
        modality="ultrasound",
        synthetic=False,
        num_patients=50,
        patients=Counts(train=30, val=8, test=12),
        images=Counts(train=60, val=16, test=24),
        results={method: MethodResult(auroc=auroc, metrics={}) for method in ("alone", "cdtl")},
        gain={"cdtl-alone": Estimate.of(Interval(*gain))},
        selection=ModelChoice(
            chosen="own", share=1.0, share_by="equal", evidence_patients=0, validation_log_loss={}, test_auroc={}
        ),
        bytes_per_round={"cdtl": Bytes(sent=6_700_000, received=6_800_000, initial_weights_received=13_000_000)},
    )


def report(*sites: SiteReport) -> Report:
    return Report(
        cdtl_version="0",
        name="study",
        seed=3,
        engine="in-process",
        rounds=4,
        methods=("alone", "cdtl"),
        blend={},
        sites=sites,
    )


def test_a_gain_is_claimed_only_beyond_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    sites = [site("north", (0.05, 0.01, 0.09)), site("east", (0.05, -0.01, 0.1)), site("south", (-0.1, -0.2, -0.01))]
    print_report(report(*sites), Path("runs/study"))
    text = capsys.readouterr().out
    assert "north: +5.0 (+1.0 to +9.0), a gain." in text
    assert "east: +5.0 (-1.0 to +10.0), no clear difference." in text
    assert "south: -10.0 (-20.0 to -1.0), a loss." in text
    assert "+0.01 to +0.09" in text
    assert "6.7/6.8" in text
    assert "SYNTHETIC" not in text
    assert max(len(line) for line in text.splitlines() if "study" not in line and "CDTL" not in line) <= 120


def test_too_few_patients_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report(site("tiny", (0.2, math.nan, math.nan))), Path("x"))
    assert "no interval" in capsys.readouterr().out
