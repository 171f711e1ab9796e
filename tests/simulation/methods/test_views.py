"""Cached frozen stages: every method gives the same result as without the cache."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdtl_core.simulation.methods.loop import play
from cdtl_core.simulation.methods.method import Federation
from cdtl_core.simulation.methods.pooled import pool_sites
from cdtl_core.simulation.methods.registry import method_of

Build = Callable[..., Federation]
TRAIN = {"freeze": 2, "views": 2}


def images_kept(folder: Path) -> list[bytes]:
    return [name for path in folder.glob("*/*.npy") for name in np.load(path)["image"].tolist()]


@pytest.mark.parametrize("name", ["alone", "pooled", "fedavg", "apfl", "fedamp", "cdtl_learned"])
def test_a_method_with_kept_activations_is_the_method_without_to_the_last_bit(
    name: str, build: Build, tmp_path: Path
) -> None:
    federation = build("bari", "como", train=TRAIN, federation={"rounds": 2})
    kept, computed = (
        play(method_of(name), [replace(site, cache=cache) for site in federation.sites.values()], *also)
        for also in [(federation.initial_weights, federation.config)]
        for cache in (tmp_path, None)
    )
    for site, weights in kept.items():
        assert all(value.equal(computed[site][tensor]) for tensor, value in weights.items())
    names = images_kept(tmp_path)
    assert len(names) == len(set(names)) > 0


def test_what_sites_have_kept_pooled_images_find(build: Build, tmp_path: Path) -> None:
    """Also gray ones beside colour, whatever the site they came from first."""
    federation = build("bari", "como", train=TRAIN, federation={"rounds": 1})
    sites = [replace(site, cache=tmp_path) for site in federation.sites.values()]
    assert {site.cohort.channels for site in sites} == {1, 3}
    play(method_of("alone"), sites, federation.initial_weights, federation.config)
    before = set(images_kept(tmp_path))
    play(method_of("pooled"), sites, federation.initial_weights, federation.config)
    assert set(images_kept(tmp_path)) == before
    assert pool_sites(sites).entry == sites[0].entry
