"""The report of a simulation, from the files of server and sites."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdtl_core import __version__
from cdtl_core.config import Method, SimulationConfig, SiteConfig
from cdtl_core.data.cohort import Cohort
from cdtl_core.errors import CheckpointError
from cdtl_core.federation.blend import retention_of, transfer_of
from cdtl_core.federation.label_map import label_hash
from cdtl_core.federation.round import Member, round_matrices, start
from cdtl_core.inference.model_folder import MODEL_FILE, NOTE_FILE
from cdtl_core.privacy.ledger import read_ledger
from cdtl_core.results.card import CARD_FILE, CARD_TEXT, load_card, save_card
from cdtl_core.results.material import choice_of
from cdtl_core.results.report import Bytes, Counts, ModelChoice, Privacy, Report, SiteReport
from cdtl_core.results.scores import Scores, gains, log_loss_changes, method_result, read_scores, with_own_model
from cdtl_core.results.spent import spent_of
from cdtl_core.site.home import open_site
from cdtl_core.site.memory import model_folder
from cdtl_core.site.spending import is_private
from cdtl_core.system.durable import replace_bytes

__all__ = ["gather_report", "sites_folder"]


def sites_folder(out: Path) -> Path:
    """Return the folder of the sites' folders in a run directory."""
    return out / "sites"


def gather_report(config: SimulationConfig, out: Path, engine: str) -> Report:
    """Build the report of the finished run in `out`; also copies each site's final model into ``sites/<name>/``.

    Args:
        config: The simulation.
        out: Its run directory.
        engine: The engine that ran it.
    """
    lines = [json.loads(line) for line in (out / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    return Report(
        cdtl_version=__version__,
        name=config.run.name,
        seed=config.run.seed,
        engine=engine,
        rounds=config.run.federation.rounds,
        methods=config.methods,
        blend=_blend_summary(config, [_member(config, site, out) for site in config.sites]),
        sites=tuple(_site_report(config, site, out, lines) for site in config.sites),
    )


def _site_report(config: SimulationConfig, site: SiteConfig, out: Path, lines: Sequence[Any]) -> SiteReport:
    home = sites_folder(out) / site.site
    cohort = open_site(home, config.of_method(config.methods[0])).cohort
    scores: dict[str, Scores] = {
        method: _scores_of(model_folder(home, f"{config.run.name}-{method}")) for method in config.methods
    }
    if "cdtl" in config.methods:
        _realised_blend(model_folder(home, f"{config.run.name}-cdtl"), lines)
    _publish_model(home, model_folder(home, f"{config.run.name}-{_final_method(config)}"))
    seed = config.run.seed
    return SiteReport(
        name=site.site,
        modality=site.modality,
        synthetic=site.data.phantom is not None,
        num_patients=cohort.num_patients,
        patients=_counts(cohort, "num_patients"),
        images=_counts(cohort, "num_images"),
        results={method: method_result(found, seed) for method, found in with_own_model(scores).items()},
        gain=gains(scores, seed),
        log_loss_change=log_loss_changes(scores, seed),
        selection=_selection(home, config, scores) if "cdtl" in config.methods else None,
        bytes_per_round={m: _bytes(lines, m, home) for m in config.methods if m != "alone"},
        privacy=_privacy(config, site, home, lines) if is_private(site, config.run) else {},
    )


def _privacy(config: SimulationConfig, site: SiteConfig, home: Path, lines: Sequence[Any]) -> dict[str, Privacy]:
    """Return what each method's ledger holds.

    Args:
        config: The simulation.
        site: The site.
        home: Its folder.
        lines: Rounds by method.
    """
    found: dict[str, Privacy] = {}
    for method in config.methods:
        key = f"{config.run.name}-{method}"
        folder = home / "privacy" / key
        ledger = read_ledger(folder)
        plan, spent = ledger.plan_of(key), spent_of(ledger, folder)
        rounds = [line["round"] for line in lines if line["method"] == method and site.site in line.get("spent", [])]
        found[method] = Privacy(
            target_epsilon=plan.target_epsilon if plan else config.run.dp.target_epsilon,
            target_delta=config.run.dp.target_delta,
            epsilon_rdp=spent.epsilon_rdp,
            epsilon_prv=spent.epsilon_prv,
            steps=sum(one.steps for one in ledger.history),
            spent_in_round=min(rounds, default=None),
        )
    return found


def _final_method(config: SimulationConfig) -> Method:
    return "cdtl" if "cdtl" in config.methods else config.methods[-1]


def _publish_model(home: Path, source: Path) -> None:
    for name in (MODEL_FILE, NOTE_FILE, CARD_FILE, CARD_TEXT):
        replace_bytes(home / name, (source / name).read_bytes())


def _realised_blend(folder: Path, lines: Sequence[Any]) -> None:
    """Write the effect of all rounds' matrices into a site's card; a site between hospitals does not know it."""
    rounds, card = [line for line in lines if line["method"] == "cdtl" and "matrix" in line], load_card(folder)
    if card is None or not rounds:
        return
    matrices, groups = [np.array(line["matrix"]) for line in rounds], tuple(rounds[-1]["groups"])
    kept = dict(zip(groups, retention_of(matrices), strict=True))[card.modality]
    shares = tuple(tuple(round(float(share), 6) for share in row) for row in transfer_of(matrices))
    told = {"groups": groups, "transfer": shares, "retention": round(kept, 6)}
    save_card(folder, card.model_copy(update={"blend": card.blend.model_copy(update=told)}))


def _scores_of(folder: Path) -> Scores:
    found = read_scores(folder)
    if found is None:
        raise CheckpointError(f"{folder} holds no scores: resume the run.")
    return found


def _selection(home: Path, config: SimulationConfig, scores: Mapping[str, Scores]) -> ModelChoice | None:
    return choice_of(model_folder(home, f"{config.run.name}-cdtl"), scores["cdtl"], config.run.seed)


def _bytes(lines: Sequence[Any], method: str, home: Path) -> Bytes:
    """Return the mean over rounds without the initial weights, which are received once and counted separately."""
    rounds = [
        line["sites"][home.name] for line in lines if line["method"] == method and home.name in line.get("sites", {})
    ]
    received = [entry["bytes_received"] - entry.get("initial_weights_bytes", 0) for entry in rounds]
    return Bytes(
        sent=round(np.mean([entry["bytes_sent"] for entry in rounds])),
        received=round(np.mean(received)),
        initial_weights_received=sum(path.stat().st_size for path in (home / "initial_weights").glob("*.safetensors")),
    )


def _blend_summary(config: SimulationConfig, members: Sequence[Member]) -> dict[str, Any]:
    """Return the blend's settings and each modality's retention at the end."""
    if "cdtl" not in config.methods:
        return {}
    run = config.of_method("cdtl")
    state = start(members, run)
    values = retention_of(round_matrices(state, run))
    return {**run.blend.model_dump(mode="json"), "retention": dict(zip(state.offsets, values, strict=True))}


def _member(config: SimulationConfig, site: SiteConfig, out: Path) -> Member:
    cohort = open_site(sites_folder(out) / site.site, config.of_method(config.methods[0])).cohort
    return Member(site.site, site.modality, cohort.folds["train"].num_patients, label_hash(cohort.labels))


def _counts(cohort: Cohort, name: str) -> Counts:
    return Counts(**{split: getattr(fold, name) for split, fold in cohort.folds.items()})
