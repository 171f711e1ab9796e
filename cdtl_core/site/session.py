"""What a site does with each message: open its folder, act, keep what stays, encode what leaves."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import RecordDict

from cdtl_core.config import RunConfig
from cdtl_core.config.settings import SITE_FILE, load_site
from cdtl_core.errors import FederationError
from cdtl_core.federation import wire
from cdtl_core.federation.contract import ModalityContract, enrolled_contract, most_patients
from cdtl_core.federation.egress import sends_own_head
from cdtl_core.federation.evidence import donor_heads, mean_of_others
from cdtl_core.federation.finish import Outcome, candidate, finish, finish_one
from cdtl_core.federation.label_map import label_hash
from cdtl_core.federation.round import Member
from cdtl_core.federation.site import OwnModel, RoundOrder, Site, SiteUpdate, is_centred, own_head, run_round, train_own
from cdtl_core.metrics.metrics import auroc_interval
from cdtl_core.models.weights import Weights, weights_hash
from cdtl_core.results.card import save_card
from cdtl_core.site import memory
from cdtl_core.site.asked import check_order
from cdtl_core.site.diary import last_round, note_round
from cdtl_core.site.home import contract_of, open_site
from cdtl_core.site.initial_weights import holds_initial_weights, load_initial_weights, save_initial_weights
from cdtl_core.site.release import card_of
from cdtl_core.site.spending import exempt_grant, is_private, ledger_of, reserve_round, settle
from cdtl_core.system.foreign import get_logger

__all__ = ["describe_site", "federation_key", "finish_run", "train_round"]

_log = get_logger("cdtl.site")


def federation_key(config: RunConfig) -> str:
    """The name under which a site keeps what it remembers of a run."""
    return f"{config.name}-{config.method}"


def describe_site(content: RecordDict, home: Path, config: RunConfig) -> RecordDict:
    """Name, modality, training patients, label map, contract, and whether the site holds the initial weights."""
    holds = holds_initial_weights(home, wire.decode_question(content))
    site, own = open_site(home, config), load_site(home / SITE_FILE)
    contract, enrolled = contract_of(home, site), enrolled_contract(home)
    member = Member(site.name, site.modality, site.cohort.folds["train"].num_patients, label_hash(site.cohort.labels))
    if is_private(own, config):
        ledger = ledger_of(home, own, config, site, federation_key(config))
        first, count = ledger.opening, len(ledger.reservations)
        member = replace(member, num_patients=first.num_patients, ledger=first.ledger, reservations=count)
        contract = contract.model_copy(update=dict(first.published))
    if enrolled is not None:
        member, contract = _as_enrolled(member, contract, enrolled), enrolled
    return wire.encode_introduction(wire.Introduction(member, holds, contract))


def _as_enrolled(member: Member, now: ModalityContract, enrolled: ModalityContract) -> Member:
    """The member as it may introduce itself: with what the site enrolled with, even if its cohort has grown since.

    Raises:
        FederationError: The site is another one than it enrolled as, or the run predicts other labels.
    """
    fields = [name for name, value in now if value != getattr(enrolled, name)]
    if wrong := sorted({"site", "modality", "labels", "positive", "intake_version"} & set(fields)):
        raise FederationError(
            f"this site enrolled with another {' and '.join(wrong)} than it has in this run: run cdtl site init, send "
            "the new enrolment.json to the coordinator, and start again once it is admitted."
        )
    if fields:
        _log.warning(
            "this site's %s changed since it enrolled, and it takes part as it enrolled: run cdtl site init and send "
            "the new enrolment.json to the coordinator",
            " and ".join(fields), extra={"site": member.site},
        )  # fmt: skip
    return replace(member, num_patients=min(member.num_patients, most_patients(enrolled)))


def train_round(content: RecordDict, home: Path, config: RunConfig) -> RecordDict:
    """Train one round from the site's memory of the round before; the memory is kept before the reply is built."""
    order, initial_weights = _order_of(content, home, config)
    began = time.monotonic()
    own = _train_own(home, config, initial_weights, order.round) if config.method == "cdtl" else None
    own_seconds = round(time.monotonic() - began, 3)
    update = _update_of(home, config, initial_weights, order, own)
    reply, seconds = wire.encode_update(update), round(time.monotonic() - began, 3)
    figures = {**update.metrics, **({"own_seconds": own_seconds} if own is not None else {})}
    federation = federation_key(config)
    note_round(home, federation, round=update.round, seconds=seconds, received=content, sent=reply, metrics=figures)
    return reply


def _order_of(content: RecordDict, home: Path, config: RunConfig) -> tuple[RoundOrder, Weights]:
    """What the coordinator asks for, if the site approved it, and the run's initial weights."""
    order, initial_weights_hash = wire.decode_order(content, config.federation.rounds)
    check_order(home, federation_key(config), config, content, ("train", order.round, initial_weights_hash))
    received = wire.decode_initial_weights(content)
    if received is not None:
        save_initial_weights(home, received, initial_weights_hash)
    return order, load_initial_weights(home, initial_weights_hash)


def _update_of(
    home: Path, config: RunConfig, initial_weights: Weights, order: RoundOrder, own: OwnModel | None
) -> SiteUpdate:
    if is_private(load_site(home / SITE_FILE), config):
        return _train_privately(home, config, initial_weights, order)
    _say_lost_memory(home, federation_key(config), order.round)
    site, before = open_site(home, config), memory.load_memory(home, federation_key(config), before=order.round)
    grant = exempt_grant(config, site, centred=is_centred(before)) if config.dp.enabled else None
    after, update = run_round(site, initial_weights, before, order, grant)
    memory.save_memory(home, federation_key(config), after)
    last = order.round == config.federation.rounds
    return replace(update, own=own_head(site, own)) if last and own and sends_own_head(config) else update


def _train_own(home: Path, config: RunConfig, initial_weights: Weights, round: int) -> OwnModel:
    """The site's own model after this round; local work, of which nothing is sent but what the egress list names."""
    site, federation = open_site(home, config), federation_key(config)
    before = memory.load_own(home, federation, before=round)
    if before.memory.round < last_round(home, federation, before=round):
        _log.warning(
            "the own model of this site is of round %d and later ones are gone: was this site's folder restored from "
            "an older copy, or written by an earlier version? It goes on with fewer steps than the joint one",
            before.memory.round, extra={"site": home.name},
        )  # fmt: skip
    grant = exempt_grant(config, site, centred=is_centred(before.memory)) if config.dp.enabled else None
    own = train_own(site, initial_weights, before, round, grant)
    memory.save_own(home, federation, own)
    return own


def _say_lost_memory(home: Path, federation: str, round: int) -> None:
    """Say at the site that its norms and head are older than its diary: what lay between cannot be had again."""
    held = memory.load_memory(home, federation, before=round).round
    noted = last_round(home, federation, before=round)
    if held < noted:
        _log.warning(
            "the memory of round %d is gone and that of round %d is used: was this site's folder restored from an "
            "older copy? Its norms, and its head if that is not shared, have lost what was learned between",
            noted, held, extra={"site": home.name},
        )  # fmt: skip


def _train_privately(home: Path, config: RunConfig, initial_weights: Weights, order: RoundOrder) -> SiteUpdate:
    """Reserve, train, keep, commit; an order answered before is answered alike, and a spent budget with nothing."""
    site, own, federation = open_site(home, config), load_site(home / SITE_FILE), federation_key(config)
    asked = weights_hash(initial_weights), order
    if kept := memory.kept_update(home, federation, *asked, site.name):
        return kept
    before = memory.load_memory(home, federation, before=order.round)
    granted = reserve_round(home, own, config, site, federation, round=order.round, centred=is_centred(before))
    if granted is None:
        return SiteUpdate(site.name, order.round, {}, private=True, spent=True)
    after, update = run_round(site, initial_weights, before, order, granted.grant)
    memory.save_memory(home, federation, after)
    memory.keep_update(home, federation, *asked, update)
    settle(home, own, federation, granted)
    return update


def finish_run(content: RecordDict, home: Path, config: RunConfig) -> RecordDict:
    """Pool, select and keep the model that the site will use; its test AUROC and which model it is leave."""
    site, private = open_site(home, config), is_private(load_site(home / SITE_FILE), config)
    outcome, initial_weights_hash = _outcome(content, home, config, site)
    federation = federation_key(config)
    memory.save_outcome(home, federation, site, outcome, private=private)
    save_card(memory.model_folder(home, federation), card_of(home, federation, site, initial_weights_hash))
    if private:
        return wire.encode_final(wire.FinalScalars({}, ""))
    fold, chosen = site.cohort.folds["test"], outcome.selection.chosen
    scores = np.exp(outcome.test[chosen][:, site.positive])
    value = auroc_interval(fold.labels == site.positive, scores, fold.patients, seed=config.seed)
    metrics = {"test_auroc": value.value, "test_auroc_low": value.low, "test_auroc_high": value.high}
    return wire.encode_final(wire.FinalScalars(metrics, chosen))


def _outcome(content: RecordDict, home: Path, config: RunConfig, site: Site) -> tuple[Outcome, str]:
    """What the run leaves at the site, and the hash of its initial_weights."""
    order, initial_weights_hash = wire.decode_order(content, config.federation.rounds + 1)
    federation = federation_key(config)
    check_order(home, federation, config, content, ("evaluate", order.round, initial_weights_hash))
    initial_weights = load_initial_weights(home, initial_weights_hash)
    joint = candidate(site, initial_weights, memory.load_memory(home, federation, before=order.round), order)
    if config.method != "cdtl":
        return finish_one(site, joint), initial_weights_hash
    trained = memory.load_own(home, federation, before=order.round)
    own = candidate(site, initial_weights, trained.memory, trained.order(order.round))
    if site.cohort.labels != config.task.labels:
        return finish_one(site, own, labels_differ=True), initial_weights_hash
    sums, counted = wire.decode_heads(content)
    sent = sums, own_head(site, trained), counted
    return finish(site, own, joint, mean_of_others(*sent), donor_heads(*sent, site.modality)), initial_weights_hash
