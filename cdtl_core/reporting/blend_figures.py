"""What crossed between modalities: each round's blend matrix, and the transfer of the whole run."""

from collections.abc import Sequence

from cdtl_core.reporting.figure import Heat
from cdtl_core.reporting.numbers import plain
from cdtl_core.reporting.rounds import Round

__all__ = ["blend_heats", "matrix_heat"]

_MOST = 8


def matrix_heat(title: str, says: str, groups: Sequence[str], matrix: Sequence[Sequence[float]], corner: str) -> Heat:
    """A matrix of shares with the rows and columns of the groups."""
    texts = [[plain(value, 2) for value in row] for row in matrix]
    return Heat(title, says, groups, groups, matrix, texts, corner=corner)


def blend_heats(rounds: Sequence[Round]) -> list[Heat]:
    """A heat of each matrix that differs from the one before it, at most eight; equal neighbours share one."""
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


def _same(one: Round, other: Round) -> bool:
    return list(one.groups) == list(other.groups) and [list(r) for r in one.matrix] == [list(r) for r in other.matrix]


def _says(one: Round) -> str:
    own = [row[place] for place, row in enumerate(one.matrix)]
    if all(share == 1 for share in own):
        return "Nothing crossed."
    low, high = plain(min(own), 2), plain(max(own), 2)
    return f"Each modality kept {low if low == high else f'{low} to {high}'} of its own."
