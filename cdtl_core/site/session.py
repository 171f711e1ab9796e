"""A site's handling of an order: check it, open its folder, act, store local files, encode the reply."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.app import RecordDict

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import NOTE_FILE, SiteFolder, federation_key
from cdtl_core.config.settings import load_site
from cdtl_core.federation import wire
from cdtl_core.federation.egress import sends_own_head
from cdtl_core.federation.evidence import donor_heads, mean_of_others
from cdtl_core.federation.finish import Outcome, candidate, finish, finish_one
from cdtl_core.federation.journal import Diary, Traffic
from cdtl_core.federation.passes import remembering
from cdtl_core.federation.site import OwnModel, RoundOrder, Site, SiteUpdate, is_centred, own_head, run_round, train_own
from cdtl_core.inference.likeness import Likeness, save_likeness, statistics_of
from cdtl_core.inference.model_folder import files_of, save_model
from cdtl_core.metrics.metrics import auroc_interval
from cdtl_core.models.weights import Weights, save_hashed, weights_hash
from cdtl_core.privacy.mechanism import Grant
from cdtl_core.results.card import save_card
from cdtl_core.results.scores import save_scores, scores_of
from cdtl_core.site import memory
from cdtl_core.site.asked import check_order
from cdtl_core.site.home import open_site
from cdtl_core.site.initial_weights import load_initial_weights, save_initial_weights
from cdtl_core.site.introduction import describe_site
from cdtl_core.site.model_card import card_of
from cdtl_core.site.spending import exempt_grant, is_private, reserve_round, settle
from cdtl_core.system.foreign import get_logger

__all__ = ["describe_site", "finish_run", "train_round"]  # the handler of each kind of message, by name

_log = get_logger("cdtl.site")


@dataclass(frozen=True)
class _Here:
    """A site in a run: its folder, its own settings, and its cohort with the run's settings.

    Attributes:
        federation: The name of the run at the site.
        private: Whether it trains with differential privacy.
    """

    folder: SiteFolder
    own: SiteConfig
    site: Site
    federation: str
    private: bool

    @property
    def config(self) -> RunConfig:
        return self.site.config

    @property
    def memory(self) -> Path:
        return self.folder.memory(self.federation)

    @property
    def diary(self) -> Diary:
        return Diary(self.folder.diary(self.federation))


def train_round(content: RecordDict, home: Path, config: RunConfig) -> RecordDict:
    """Train one round from the site's memory of the previous round; the new memory is stored before the reply.

    Args:
        content: The message.
        home: The site's folder.
        config: The run.
    """
    order, initial_weights = _accept(content, home, config)
    began = time.monotonic()
    here = _open(home, config)
    own = _train_own(here, initial_weights, order.round) if config.method == "cdtl" else None
    own_seconds = round(time.monotonic() - began, 3)
    act = _train_privately if here.private else _train
    update = act(here, initial_weights, order)
    if own is not None and not here.private and order.round == config.federation.rounds and sends_own_head(config):
        update = replace(update, own=own_head(here.site, own))
    reply, seconds = wire.encode_update(update), round(time.monotonic() - began, 3)
    figures = {**update.metrics, **({"own_seconds": own_seconds} if own is not None else {})}
    received, initial = wire.num_bytes(content), wire.initial_weights_bytes(content)
    here.diary.note(update.round, Traffic(received, initial, wire.num_bytes(reply), seconds), figures)
    return reply


def finish_run(content: RecordDict, home: Path, config: RunConfig) -> RecordDict:
    """Pool, select and store the model that the site will use; its test AUROC and its kind are sent.

    Args:
        content: The message.
        home: The site's folder.
        config: The run.
    """
    order, initial_weights_hash = wire.decode_order(content, config.federation.rounds + 1)
    check_order(SiteFolder(home), config, content, ("evaluate", order.round, initial_weights_hash))
    began = time.monotonic()
    here = _open(home, config)
    here = replace(here, site=remembering(here.site))
    outcome = _end(here, content, order, initial_weights_hash)
    reply = wire.encode_final(wire.FinalScalars({}, "") if here.private else _final(here, outcome))
    received, initial = wire.num_bytes(content), wire.initial_weights_bytes(content)
    traffic = Traffic(received, initial, wire.num_bytes(reply), round(time.monotonic() - began, 3))
    here.diary.note(order.round, traffic, {}, ends=True)
    return reply


def _final(here: _Here, outcome: Outcome) -> wire.FinalScalars:
    """Return the test AUROC of the model that the site uses, with its interval, and which model that is."""
    site, chosen = here.site, outcome.selection.chosen
    fold = site.cohort.folds["test"]
    scores = np.exp(outcome.test[chosen][:, site.positive])
    value = auroc_interval(fold.labels == site.positive, scores, fold.patients, seed=here.config.seed)
    metrics = {"test_auroc": value.value, "test_auroc_low": value.low, "test_auroc_high": value.high}
    return wire.FinalScalars(metrics, chosen)


def _open(home: Path, config: RunConfig) -> _Here:
    """Open the site of this folder under the settings of a run.

    Raises:
        CdtlError: A setting of the site is wrong, its cohort cannot be used, or it must not take part.
    """
    folder = SiteFolder(home)
    own, federation = load_site(folder.settings), federation_key(config.name, config.method)
    return _Here(folder, own, open_site(home, config), federation, is_private(own, config))


def _accept(content: RecordDict, home: Path, config: RunConfig) -> tuple[RoundOrder, Weights]:
    """Return the coordinator's order, if the site approved it, and the run's initial weights.

    Args:
        content: The message.
        home: The site's folder.
        config: The run.
    """
    order, initial_weights_hash = wire.decode_order(content, config.federation.rounds)
    check_order(SiteFolder(home), config, content, ("train", order.round, initial_weights_hash))
    received = wire.decode_initial_weights(content)
    if received is not None:
        save_initial_weights(home, received, initial_weights_hash)
    return order, load_initial_weights(home, initial_weights_hash)


def _train_own(here: _Here, initial_weights: Weights, round: int) -> OwnModel:
    """Train the site's own model for this round; of this local work only what the egress list names is sent.

    Args:
        here: The site.
        initial_weights: Of the run.
        round: Number of the round.
    """
    before = memory.load_own(here.memory, before=round)
    if before.memory.round < here.diary.last_round(before=round):
        _log.warning(
            "the own model of this site is of round %d and later rounds are missing: was this site's folder restored "
            "from an older copy, or written by an earlier version? It continues with fewer steps than the joint one",
            before.memory.round, extra={"site": here.folder.home.name},
        )  # fmt: skip
    own = train_own(here.site, initial_weights, before, round, _exempt(here, centred=is_centred(before.memory)))
    memory.save_own(here.memory, own)
    return own


def _train(here: _Here, initial_weights: Weights, order: RoundOrder) -> SiteUpdate:
    """Train the joint model, and store the local files.

    Args:
        here: The site.
        initial_weights: Of the run.
        order: The coordinator's order.
    """
    before = memory.load_memory(here.memory, before=order.round)
    noted = here.diary.last_round(before=order.round)
    if before.round < noted:
        _log.warning(
            "the memory of round %d is missing and that of round %d is used: was this site's folder restored from an "
            "older copy? Its norms, and its head if that is not shared, have lost what was learned between",
            noted, before.round, extra={"site": here.folder.home.name},
        )  # fmt: skip
    grant = _exempt(here, centred=is_centred(before))
    after, update = run_round(here.site, initial_weights, before, order, grant)
    memory.save_memory(here.memory, after)
    return update


def _train_privately(here: _Here, initial_weights: Weights, order: RoundOrder) -> SiteUpdate:
    """Reserve, train, store, commit.

    An order that was answered before gets the same answer. With a spent budget the answer is empty.

    Args:
        here: The site.
        initial_weights: Of the run.
        order: The coordinator's order.
    """
    site, home, asked = here.site, here.folder.home, (weights_hash(initial_weights), order)
    if kept := memory.kept_update(here.memory, *asked, site.name):
        return kept
    before = memory.load_memory(here.memory, before=order.round)
    granted = reserve_round(
        home, here.own, here.config, site, here.federation, round=order.round, centred=is_centred(before)
    )
    if granted is None:
        return SiteUpdate(site.name, order.round, {}, private=True, spent=True)
    after, update = run_round(site, initial_weights, before, order, granted.grant)
    memory.save_memory(here.memory, after)
    memory.keep_update(here.memory, *asked, update)
    settle(home, here.own, here.federation, granted)
    return update


def _exempt(here: _Here, *, centred: bool) -> Grant | None:
    """Return the steps of a site without differential privacy in a run with it; None in a run without."""
    return exempt_grant(here.config, here.site, centred=centred) if here.config.dp.enabled else None


def _end(here: _Here, content: RecordDict, order: RoundOrder, initial_weights_hash: str) -> Outcome:
    """Compute the outcome of the run and write the model folder: weights, scores, model, statistics, card.

    None of it is sent. The disk is slow, so a thread writes the weights while the rest is computed. If the folder holds
    the model of an earlier run, its weights are replaced after the outcome is known.

    Args:
        here: The site.
        content: The message.
        order: The coordinator's order.
        initial_weights_hash: SHA-256 of the initial weights.
    """
    initial_weights, site = load_initial_weights(here.folder.home, initial_weights_hash), here.site
    folder, own, joint, head = here.folder.model(here.federation), None, None, Weights()
    if here.config.method == "cdtl":
        trained = memory.load_own(here.memory, before=order.round)
        own = candidate(site, initial_weights, trained.memory, trained.order(order.round))
        head = own_head(site, trained)
    if own is None or site.cohort.labels == here.config.task.labels:
        joint = candidate(site, initial_weights, memory.load_memory(here.memory, before=order.round), order)
    with ThreadPoolExecutor(1, "model") as pool:
        early = {} if (folder / NOTE_FILE).exists() else files_of(own, joint)
        written = {name: pool.submit(save_hashed, folder / name, one) for name, one in early.items()}
        if own is not None and joint is not None:
            sums, counted = wire.decode_heads(content)
            others, donors = mean_of_others(sums, head, counted), donor_heads(sums, head, counted, site.modality)
            outcome = finish(site, own, joint, others, donors)
        elif own is not None:
            outcome = finish_one(site, own, labels_differ=True)
        elif joint is not None:
            outcome = finish_one(site, joint)
        test, val = scores_of(site, outcome, "test"), scores_of(site, outcome, "val")
        save_scores(folder, test, val)
        saving = pool.submit(save_model, folder, site, outcome, private=here.private, written=written)
        try:
            statistics = statistics_of(site, outcome.used)
        finally:
            note = saving.result()  # a full disk is said first
    save_likeness(folder, Likeness(weights_sha256=note.weights_sha256, **statistics))
    save_card(folder, card_of(here.folder, site, note, test, val, initial_weights_hash))
    return outcome
