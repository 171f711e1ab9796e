"""No method learns from a test patient."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cdtl_core.federation.evidence import PooledModel
from cdtl_core.federation.site import Site
from cdtl_core.simulation.folds import scarce_site
from cdtl_core.simulation.methods.loop import play
from cdtl_core.simulation.methods.method import Federation
from cdtl_core.simulation.methods.registry import METHODS, method_of

Build = Callable[..., Federation]


def spoiled(site: Site) -> Site:
    """Return the site with other test images and labels."""
    test = site.cohort.folds["test"]
    blank = np.full_like(test.pixels, 255)
    folds = {**site.cohort.folds, "test": replace(test, pixels=blank, labels=1 - test.labels)}
    return replace(site, cohort=replace(site.cohort, folds=folds))


@pytest.mark.parametrize("name", METHODS)
def test_other_test_patients_leave_the_same_model(build: Build, name: str) -> None:
    federation = build("alba", "como", federation={"rounds": 2}, train={"steps": 1})
    sites = [scarce_site(s, seed=0, fold=0, folds=2, patients=4) for s in federation.sites.values()]
    one = play(method_of(name), sites, federation.initial_weights, federation.config)
    two = play(method_of(name), [spoiled(site) for site in sites], federation.initial_weights, federation.config)
    for site, model in one.items():
        found, other = (part.tensors if isinstance(part, PooledModel) else part for part in (model, two[site]))
        assert all(value.equal(other[tensor]) for tensor, value in found.items())
