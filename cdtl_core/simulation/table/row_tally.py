"""Results of a table of models from its cells."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cdtl_core import __version__
from cdtl_core.config import PaperConfig, RowConfig, SimulationConfig
from cdtl_core.metrics.metrics import auroc, auroc_interval
from cdtl_core.metrics.rates import Scored, rates_with_intervals
from cdtl_core.models.model import build_classifier
from cdtl_core.results.model_table import ModelTable, RowResult, SplitResult
from cdtl_core.results.report import Estimate
from cdtl_core.simulation.cell import CELLS
from cdtl_core.simulation.table.row_cell import RowCell, Split, cells_of_row, run_of_row, table_of
from cdtl_core.simulation.tally import OutOfFold, join_folds, mean_of

__all__ = ["Cost", "cost_of", "tally_rows"]


@dataclass(frozen=True)
class Cost:
    """Number of parameters, including frozen ones, and multiply-accumulates for one image."""

    parameters: int
    macs: int


def cost_of(model: nn.Module, image_size: int) -> Cost:
    """Count parameters and multiply-accumulates (convolutions and matrix products) for images B 3 H W.

    Source: eq. (16), Inbaraj et al. 2025, counted by torch's FlopCounterMode at two operations each.
    """
    model.eval()
    images = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return Cost(sum(one.numel() for one in model.parameters()), counter.get_total_flops() // 2)


def tally_rows(config: SimulationConfig, out: Path) -> ModelTable:
    """Return the result of a table whose cells are all finished."""
    table = table_of(config)
    site = next(site for site in config.sites if site.site == table.target)
    return ModelTable(
        cdtl_version=__version__,
        name=config.run.name,
        target=table.target,
        synthetic=site.data.phantom is not None,
        settings=config.run.model_dump(mode="json", exclude={"method"}),
        rows=tuple(_row(config, table, row, out) for row in table.rows),
    )


def _row(config: SimulationConfig, table: PaperConfig, row: RowConfig, out: Path) -> RowResult:
    run = run_of_row(config, row)
    site = next(site for site in config.sites if site.site == table.target)
    labels = site.labels or run.task.labels
    cost = cost_of(build_classifier(run.model, len(labels), run.image.size), run.image.size)
    return RowResult(
        row=row.row,
        method=row.method,
        backbone=run.model.backbone,
        weights=run.model.weights,
        steps=run.train.steps * run.federation.rounds,
        batch_size=run.train.batch_size,
        parameters=cost.parameters,
        macs=cost.macs,
        leaky=_split(config, table, row, "leaky", out),
        grouped=_split(config, table, row, "grouped", out),
    )


def _split(config: SimulationConfig, table: PaperConfig, row: RowConfig, split: Split, out: Path) -> SplitResult | None:
    cells = list(cells_of_row(row, split))
    if not cells:
        return None
    read = {cell: json.loads((out / CELLS / cell.file).read_text(encoding="utf-8")) for cell in cells}
    found = {cell: content["targets"][table.target] for cell, content in read.items()}
    repeats = [_joined(found, repeat) for repeat in sorted({cell.repeat for cell in cells})]
    seed = config.run.seed
    figures = rates_with_intervals([_scored(one) for one in repeats], seed=seed)
    return SplitResult(
        repeats=len(repeats),
        folds=len(cells) // len(repeats),
        tested_images=len(repeats[0].labels),
        tested_patients=len(np.unique(np.concatenate([one.patients for one in repeats]))),
        training_images=round(_mean(found, "training_images"), 1),
        leaked=round(_mean(found, "leaked"), 4),
        majority_rate=float(np.mean([max(one.truth.mean(), 1 - one.truth.mean()) for one in repeats])),
        figures={name: Estimate.of(interval) for name, interval in figures.items()},
        auroc_by_repeat=tuple(_number(auroc(one.truth, one.score)) for one in repeats),
        auroc_of_mean=_of_mean(repeats, seed) if split == "grouped" and len(repeats) > 1 else None,
        seconds=round(sum(content["seconds"] for content in read.values()), 1),
    )


def _joined(found: Mapping[RowCell, Mapping[str, Any]], repeat: int) -> OutOfFold:
    parts = [scores for cell, scores in found.items() if cell.repeat == repeat]
    return join_folds(parts)


def _of_mean(repeats: Sequence[OutOfFold], seed: int) -> Estimate:
    mean = mean_of(repeats)
    return Estimate.of(auroc_interval(mean.truth, mean.score, mean.patients, seed=seed))


def _scored(found: OutOfFold) -> Scored:
    return Scored(found.truth, found.score, found.patients)


def _mean(found: Mapping[RowCell, Mapping[str, Any]], name: str) -> float:
    return float(np.mean([scores[name] for scores in found.values()]))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
