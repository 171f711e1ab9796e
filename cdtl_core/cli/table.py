"""The result of a run as a table for a person."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cdtl_core.reporting.report import Estimate, Report, SiteReport

__all__ = ["print_report"]

_TITLES = {"alone": "alone", "fedavg": "FedAvg", "cdtl": "CDTL"}


def print_report(report: Report, folder: Path) -> None:
    """Print one row per site and, below, what the figures are."""
    console = Console()
    table = Table(title=f"{report.name}, seed {report.seed}, {report.rounds} rounds: test AUROC with 95 % interval")
    table.add_column("site", overflow="fold")
    table.add_column("patients\ntrain/val/test", justify="right")
    for method in report.methods:
        table.add_column(_TITLES[method], justify="center")
    if "cdtl" in report.methods:
        if "alone" in report.methods:
            table.add_column("gain of CDTL\nover alone", justify="center")
        table.add_column("model used")
        table.add_column("kB a round\nsent/received", justify="right")
    for site in report.sites:
        table.add_row(*_row(report, site))
    console.print(table)
    for line in _notes(report, folder):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _row(report: Report, site: SiteReport) -> list[str]:
    patients = f"{site.patients.train}/{site.patients.val}/{site.patients.test}"
    cells = [f"{site.name}\n{site.modality}", patients]
    cells += [_estimate(site.results[method].auroc) for method in report.methods]
    if "cdtl" in report.methods:
        if "alone" in report.methods:
            cells.append(_estimate(site.gain["cdtl-alone"], sign="+"))
        crossed = site.bytes_per_round["cdtl"]
        cells.append(site.gate.chosen if site.gate else "")
        cells.append(f"{crossed.sent / 1000:,.0f}/{crossed.received / 1000:,.0f}")
    return cells


def _estimate(estimate: Estimate, sign: str = "") -> str:
    if estimate.value is None:
        return "-"
    value = f"{estimate.value:{sign}.3f}"
    if estimate.low is None or estimate.high is None:
        return f"{value}\n(too few patients)"
    return f"{value}\n({estimate.low:{sign}.3f} to {estimate.high:{sign}.3f})"


def _notes(report: Report, folder: Path) -> list[str]:
    notes = []
    if any(site.synthetic for site in report.sites):
        notes.append("Images are SYNTHETIC phantoms: these figures say nothing about patients.")
    gains = [(site.name, site.gain.get("cdtl-alone")) for site in report.sites]
    better = [name for name, gain in gains if gain is not None and gain.low is not None and gain.low > 0]
    worse = [name for name, gain in gains if gain is not None and gain.high is not None and gain.high < 0]
    if "cdtl" in report.methods and "alone" in report.methods:
        notes.append(
            f"Gain over alone beyond its interval: {', '.join(better) or 'at no site'}; "
            f"loss beyond it: {', '.join(worse) or 'at no site'}. Elsewhere: no evidence of a difference."
        )
    notes.append(f"Models, scores and report.json are in {folder}.")
    return notes
