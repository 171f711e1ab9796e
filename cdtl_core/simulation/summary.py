"""Means over receivers: the comparisons, corrections and claims of a study."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cdtl_core.results.comparison import Difference, Donors, Outcomes, Row, Size, claim_of
from cdtl_core.simulation.arms import ALONE, arm_of, control_of, is_control
from cdtl_core.simulation.hierarchy import Figure, mean_difference
from cdtl_core.simulation.study import Study

__all__ = ["Block", "holm", "outcomes_of", "rows_of"]

Block = dict[str, dict[str, Figure]]
"""Receiver to arm to its AUROC, with one set of donors and one size."""

_FEDBN, _CDTL = "fedbn", "cdtl"


def rows_of(study: Study, blocks: Mapping[tuple[Donors, Size], Block]) -> tuple[tuple[Row, ...], int]:
    """Return a row per set of donors, size and method, and the number of comparisons in Holm's correction.

    The family consists of all differences of methods to alone, to FedBN and to their own control. Controls are not
    included, since nothing is claimed for them.
    """
    found = {
        (donors, size, method, against): _difference(blocks[donors, size], method, against)
        for donors, size in _order(study, blocks)
        for method in study.methods
        for against in _against(study, method)
    }
    family = [key for key in found if not is_control(key[2])]
    corrected = holm([found[key].p for key in family])
    for key, p in zip(family, corrected, strict=True):
        found[key] = found[key].model_copy(update={"p_holm": p})
    rows = [
        _row(study, donors, size, method, blocks[donors, size], found)
        for donors, size in _order(study, blocks)
        for method in study.methods
    ]
    return tuple(rows), sum(found[key].p is not None for key in family)


def outcomes_of(study: Study, blocks: Mapping[tuple[Donors, Size], Block]) -> Outcomes | None:
    """Return the outcomes of docs/protocol.md; None if `cdtl` or `fedbn` was not run."""
    if not {_CDTL, _FEDBN} <= set(study.methods) or not blocks:
        return None
    first = min((size for _, size in blocks), key=study.patients.index)
    here = [blocks[donors, size] for donors, size in _order(study, blocks) if size == first]
    everywhere = [name for name in here[0] if all(name in block for block in here)]
    less = {name: _mean_of([block[name][_CDTL].less(block[name][_FEDBN]) for block in here]) for name in everywhere}
    gains = {
        f"{name}, donors {donors}, {size} patients": arms[_CDTL].less(arms[ALONE]).value
        for (donors, size), block in blocks.items()
        for name, arms in block.items()
    }
    worst = min(gains, key=lambda name: gains[name])
    return Outcomes(patients=first, cdtl_less_fedbn=_tested(less), worst=gains[worst], worst_at=worst)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for all that are known, in the same order.

    Source: Holm 1979.
    """
    known = [index for index, value in enumerate(p) if value is not None]
    ranked = sorted(known, key=lambda index: float(p[index] or 0.0))
    corrected: list[float | None] = [None] * len(p)
    highest = 0.0
    for place, index in enumerate(ranked):
        highest = max(highest, min(1.0, (len(ranked) - place) * float(p[index] or 0.0)))
        corrected[index] = highest
    return corrected


def _order(study: Study, blocks: Mapping[tuple[Donors, Size], Block]) -> Iterator[tuple[Donors, Size]]:
    for donors in study.donors:
        for size in study.patients:
            if (donors, size) in blocks:
                yield donors, size


def _against(study: Study, method: str) -> list[str]:
    """Return the references of a method: alone, FedBN, and its own control."""
    if method == ALONE:
        return []
    names = (ALONE, _FEDBN, control_of(method, study.methods))
    return [name for name in names if name is not None and name in study.methods and name != method]


def _difference(block: Block, method: str, against: str) -> Difference:
    return _tested({name: arms[method].less(arms[against]) for name, arms in block.items()})


def _tested(found: Mapping[str, Figure]) -> Difference:
    interval, p = mean_difference(found)
    value, low, high, chance = (
        x if math.isfinite(x) else None for x in (interval.value, interval.low, interval.high, p)
    )
    return Difference(value=value, low=low, high=high, p=chance)


def _mean_of(figures: Sequence[Figure]) -> Figure:
    """Return the mean of figures with the same patients and draws, for example over sets of donors."""
    draws = np.mean([one.draws for one in figures], axis=0)
    return Figure(draws, np.mean([one.resampled for one in figures], axis=0), figures[0].num_patients)


def _row(
    study: Study,
    donors: Donors,
    size: Size,
    method: str,
    block: Block,
    found: Mapping[tuple[Donors, Size, str, str], Difference],
) -> Row:
    control, key = control_of(method, study.methods), (donors, size, method)
    gain = found.get((*key, ALONE))
    less_control = found.get((*key, control)) if control else None
    gains = {} if gain is None else {name: arms[method].less(arms[ALONE]).value for name, arms in block.items()}
    claimed = gain is not None and not is_control(method) and arm_of(method).takes_donors
    return Row(
        donors=donors,
        patients=size,
        method=method,
        receivers=tuple(block),
        auroc=float(np.mean([arms[method].value for arms in block.values()])),
        gain=gain,
        gains=dict(gains),
        worst=min(gains, key=lambda name: gains[name]) if gains else None,
        less_fedbn=found.get((*key, _FEDBN)),
        less_control=less_control,
        claim=claim_of(gain, less_control) if claimed and gain is not None else None,
    )
