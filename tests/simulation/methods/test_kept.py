"""Stored rounds of a site are reused and change no bit."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.federation.evidence import PooledModel, on_features
from cdtl_core.federation.site import Site
from cdtl_core.simulation.methods.kept import Kept
from cdtl_core.simulation.methods.loop import play, play_in
from cdtl_core.simulation.methods.method import Federation, federation_of
from cdtl_core.simulation.methods.registry import method_of
from cdtl_core.system.progress import listen
from tests.stub import STUB

Build = Callable[..., Federation]
METHODS = ("alone", "fedbn", "fedavg", "cdtl", "fedamp", "fedcross")
HEADS: dict[str, Any] = {
    "model": {"backbone": STUB, "weights": "random", "levels": [2, 3]},
    "train": {"freeze": 3, "views": 1, "steps": 2},
    "blend": {"settle": 0},
}


@contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """The rounds that sites begin to play inside the block."""
    found: list[tuple[str, int]] = []

    def hear(said: Mapping[str, object]) -> None:
        if "site" in said:
            found.append((str(said["site"]), int(str(said["round"]))))

    with listen(hear):
        yield found


def played(name: str, sites: list[Site], initial_weights: Any, config: Any, kept: Kept) -> Any:
    return play_in(federation_of(sites, initial_weights, config, kept=kept), method_of(name))


def tensors(model: Any) -> dict[str, Any]:
    return dict(model.tensors if isinstance(model, PooledModel) else model)


def same(one: Any, two: Any) -> bool:
    return all(value.equal(tensors(two)[name]) for name, value in tensors(one).items())


@pytest.mark.parametrize("heads", [False, True])
def test_methods_that_share_rounds_end_with_the_same_bits(build: Build, heads: bool, tmp_path: Path) -> None:
    whole = build("alba", "como", "diso", federation={"rounds": 2}, **(HEADS if heads else {}))
    sites, initial_weights = list(whole.sites.values()), whole.initial_weights
    if heads:
        sites, initial_weights = [on_features(replace(site, cache=tmp_path), initial_weights) for site in sites], {}
    kept = Kept()
    for name in METHODS:
        shared = played(name, sites, initial_weights, whole.config, kept)
        fresh = play(method_of(name), sites, initial_weights, whole.config)
        assert all(same(shared[site], fresh[site]) for site in fresh), name


def test_the_parts_of_a_pool_are_not_played_again(build: Build) -> None:
    federation, kept = build("alba", "como", blend={"settle": 0}), Kept()
    sites, also = list(federation.sites.values()), (federation.initial_weights, federation.config)
    with counted() as first:
        for name in ("alone", "fedbn"):
            played(name, sites, *also, kept)
    with counted() as then:
        played("cdtl", sites, *also, kept)
    assert (len(first), then) == (12, [])


def turned(site: Site, split: Any) -> Site:
    fold = site.cohort.folds[split]
    folds = {**site.cohort.folds, split: replace(fold, labels=1 - fold.labels)}
    return replace(site, cohort=replace(site.cohort, folds=folds))


def test_a_site_is_asked_again_when_anything_of_it_has_changed(build: Build) -> None:
    federation, kept = build("alba"), Kept()
    (site,) = federation.sites.values()
    played("alone", [site], federation.initial_weights, federation.config, kept)
    seed = federation.config.model_copy(update={"seed": 5})
    lr = federation.under({"train": {"lr": 0.1}}).config
    initial_weights = {
        name: value + 1 if value.is_floating_point() else value for name, value in federation.initial_weights.items()
    }
    for other in (
        (turned(site, "train"), federation.initial_weights, federation.config),
        (turned(site, "val"), federation.initial_weights, federation.config),
        (site, federation.initial_weights, seed),
        (site, federation.initial_weights, lr),
        (site, initial_weights, federation.config),
    ):
        with counted() as found:
            played("alone", [other[0]], *other[1:], kept)
        assert len(found) == 3
    with counted() as found:
        played("alone", [turned(site, "test")], federation.initial_weights, federation.config, kept)
    assert found == []


def test_without_room_what_was_used_least_recently_is_forgotten(build: Build) -> None:
    federation, kept = build("alba", "como"), Kept(room=0)
    sites = list(federation.sites.values())
    for _ in range(2):
        with counted() as found:
            played("alone", sites, federation.initial_weights, federation.config, kept)
        assert len(found) == 6
