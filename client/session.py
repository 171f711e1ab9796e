"""What a site does with each message: open its folder, act, keep what stays, encode what leaves."""

from pathlib import Path

import numpy as np
from flwr.app import RecordDict

from cdtl_core.config import RunConfig
from cdtl_core.federation import wire
from cdtl_core.federation.coordinator import Member
from cdtl_core.federation.finish import finish
from cdtl_core.federation.label_map import label_hash
from cdtl_core.federation.site import run_round
from cdtl_core.learning.metrics import auroc_interval
from client import memory
from client.home import contract_of, open_site

__all__ = ["describe_site", "federation_key", "finish_run", "train_round"]


def federation_key(config: RunConfig) -> str:
    """The name under which a site keeps what it remembers of a run."""
    return f"{config.name}-{config.method}"


def describe_site(_content: RecordDict, home: Path, config: RunConfig) -> RecordDict:
    """Who this site is: name, modality, training patients, hashes of its label map and of the theta0 it holds."""
    site = open_site(home, config)
    patients = site.cohort.folds["train"].num_patients
    member = Member(site.name, site.modality, patients, label_hash(site.cohort.labels))
    return wire.encode_introduction(wire.Introduction(member, memory.held_theta0(home), contract_of(home, site)))


def train_round(content: RecordDict, home: Path, config: RunConfig) -> RecordDict:
    """Train one round from the site's memory of the round before; the memory is kept before the reply is built."""
    orders, theta0_hash, _ = wire.decode_order(content)
    received = wire.decode_theta0(content)
    if received is not None:
        memory.save_theta0(home, received, theta0_hash)
    theta0, order = memory.load_theta0(home, theta0_hash), orders["blended"]
    before = memory.load_memory(home, federation_key(config), before=order.round)
    after, update = run_round(open_site(home, config), theta0, before, order)
    memory.save_memory(home, federation_key(config), after)
    return wire.encode_update(update)


def finish_run(content: RecordDict, home: Path, config: RunConfig) -> RecordDict:
    """Choose the model that the site will use and keep it; only its test AUROC and the gate's choice leave."""
    orders, theta0_hash, baseline = wire.decode_order(content)
    site, federation = open_site(home, config), federation_key(config)
    before = memory.load_memory(home, federation, before=orders["blended"].round)
    outcome = finish(site, memory.load_theta0(home, theta0_hash), before, orders, memory.alone_model(home, baseline))
    memory.save_outcome(home, federation, site, outcome)
    fold, chosen = site.cohort.folds["test"], outcome.decision.chosen
    scores = np.exp(outcome.test[chosen][:, site.positive])
    value = auroc_interval(fold.labels == site.positive, scores, fold.patients, seed=config.seed)
    metrics = {"test_auroc": value.value, "test_auroc_low": value.low, "test_auroc_high": value.high}
    return wire.encode_final(wire.FinalScalars(metrics, chosen))
