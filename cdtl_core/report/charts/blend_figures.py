"""Figures of the blend: matrices by round, transfer over the whole run, and each donor's share at a site."""

from collections.abc import Mapping, Sequence

import numpy as np

from cdtl_core.federation.journal import Round
from cdtl_core.federation.transfer import retention_of_transfer
from cdtl_core.report.charts.figure import Axis, Forest, Heat, Row, ticks_of
from cdtl_core.results.report import Estimate
from cdtl_core.results.text import estimate_text, plain

__all__ = ["blend_heats", "donor_forest", "donor_heat", "donors_sentence", "matrix_heat"]
__all__ += ["retention_sentence", "shares_sentence"]

DonorShares = Mapping[str, Estimate]
"""Modality of other sites to its share."""

_MOST = 8


def matrix_heat(title: str, says: str, groups: Sequence[str], matrix: Sequence[Sequence[float]], corner: str) -> Heat:
    """Return a matrix of shares with the groups as rows and columns.

    Args:
        title: Title.
        says: The figure in one sentence.
        groups: Names of the groups, K.
        matrix: Shares, K K.
        corner: Header of the row names.
    """
    texts = [[plain(value, 2) for value in row] for row in matrix]
    return Heat(title, says, groups, groups, matrix, texts, corner=corner)


def blend_heats(rounds: Sequence[Round]) -> list[Heat]:
    """Return each matrix that differs from the previous one, at most eight; equal neighbours share one."""
    runs: list[tuple[int, int, Round]] = []
    for one in rounds:
        if runs and _same(runs[-1][2], one):
            runs[-1] = (runs[-1][0], one.number, runs[-1][2])
        elif one.matrix:
            runs.append((one.number, one.number, one))
    if len(runs) > _MOST:
        chosen = [round(place * (len(runs) - 1) / (_MOST - 1)) for place in range(_MOST)]
        runs = [runs[place] for place in chosen]
    heats = []
    for first, last, one in runs:
        title = f"Round {first}" if first == last else f"Rounds {first} to {last}"
        heats.append(matrix_heat(title, _says(one), one.groups, one.matrix, "receives from"))
    return heats


def shares_sentence(groups: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """Describe each modality's share of the joint model if all receive the same one; empty otherwise."""
    if not matrix or any(list(row) != list(matrix[0]) for row in matrix):
        return ""
    told = ", ".join(f"{group} {plain(share, 2)}" for group, share in zip(groups, matrix[0], strict=True))
    return f"In the rounds all sites trained one joint model, in which each modality counted by its patients: {told}."


def retention_sentence(groups: Sequence[str], transfer: Sequence[Sequence[float]]) -> str:
    """Describe each modality's retention, from the transfer over the whole run."""
    kept = zip(groups, retention_of_transfer(np.array(transfer)), strict=True)
    told = ", ".join(f"{group} {plain(value, 2)}" for group, value in kept)
    return f"Retention of the own offset (1: nothing was shared, 0: a uniform mixture): {told}."


def donors_sentence(shares: DonorShares) -> str:
    """Return ``ultrasound sites: 0.6 (0.3 to 0.9)``, the largest share first."""
    ordered = sorted(shares.items(), key=lambda item: -(item[1].value or 0.0))
    return "; ".join(f"{modality} sites: {estimate_text(share, digits=1)}" for modality, share in ordered)


def donor_forest(site: str, shares: DonorShares) -> Forest | None:
    """Return the shares of a site's donors, one row each; None without any."""
    ends = [end for one in shares.values() for end in (one.value, one.low, one.high) if end is not None]
    if not ends:
        return None
    ticks = ticks_of(0.0, max(*ends, 1.0))
    rows = [
        Row(f"{modality} sites", one.value, one.low, one.high, 2, estimate_text(one, digits=2))
        for modality, one in shares.items()
    ]
    says = "0: no gain from these sites for this site's patients; 1: the same weight as the site's own model."
    axis = Axis("share, the own model's being 1", 0.0, ticks[-1][0], ticks)
    return Forest(f"Share of each donor at {site}", says, axis, rows)


def donor_heat(sites: Mapping[str, DonorShares]) -> Heat | None:
    """Return the transfer matrix, receivers by donor modalities; None if no site has shares."""
    told = {site: shares for site, shares in sites.items() if shares}
    modalities = sorted({modality for shares in told.values() for modality in shares})
    if not told:
        return None
    values = [[_value(shares.get(modality)) for modality in modalities] for shares in told.values()]
    texts = [[estimate_text(shares.get(modality), digits=2) for modality in modalities] for shares in told.values()]
    says = "Shares relative to the site's own model, which is 1, with 95 % intervals over the site's training patients."
    largest = max(1.0, *(value or 0.0 for row in values for value in row))
    return Heat(
        "Transfer matrix", says, list(told), modalities, values, texts, corner="receiver, receives from", scale=largest
    )


def _value(share: Estimate | None) -> float | None:
    return None if share is None else share.value


def _same(one: Round, other: Round) -> bool:
    return list(one.groups) == list(other.groups) and [list(r) for r in one.matrix] == [list(r) for r in other.matrix]


def _says(one: Round) -> str:
    own = [row[place] for place, row in enumerate(one.matrix)]
    if all(share == 1 for share in own):
        return "Nothing was shared."
    low, high = plain(min(own), 2), plain(max(own), 2)
    return f"Share of each modality's own model: {low if low == high else f'{low} to {high}'}."
