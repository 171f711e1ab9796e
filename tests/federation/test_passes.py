"""Passes that are made once: the bits of passes made each time, and no network's values for another's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import save_toml
from cdtl_core.data.cohort import Fold
from cdtl_core.federation.evidence import PooledModel, on_features
from cdtl_core.federation.finish import finish, finish_one
from cdtl_core.federation.passes import features_of, remembering, scores_of
from cdtl_core.federation.site import Site, with_fresh_norms
from cdtl_core.inference.likeness import statistics_of
from cdtl_core.models.weights import Weights
from cdtl_core.site.home import open_site
from tests.stub import STUB

RUN = {
    "name": "tiny",
    "image": {"size": 32},
    "model": {"backbone": STUB, "weights": "random"},
    "split": {"test": 0.25, "val": 0.4},
    "pool": {"networks": "evidence"},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with 32 validation patients."""
    home = tmp_path_factory.mktemp("site") / "alba"
    own = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 80, "seed": 1}}}
    save_toml(home / SITE_FILE, SiteConfig.model_validate(own).model_dump(mode="json", exclude_none=True))
    return open_site(home, RunConfig.model_validate(RUN))


def drawn(site: Site, seed: int) -> Weights:
    """All tensors of a random network, its head too."""
    rng = torch.Generator().manual_seed(seed)
    for value in site.model.state_dict().values():
        if value.is_floating_point() and value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=rng) / max(1, value[0].numel()) ** 0.5)
    return with_fresh_norms(site)


def in_exams(fold: Fold) -> Fold:
    """The same images as exams of one to three."""
    lengths = np.resize([1, 2, 3], fold.num_images)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), fold.num_images, side="right"))]
    rows, few = fold.rows[: lengths.sum()], slice(len(lengths))
    return replace(
        fold, rows=rows, labels=fold.labels[few], patients=fold.patients[few], lengths=lengths,
        identities=fold.identities[few],
    )  # fmt: skip


@pytest.mark.parametrize("form", [lambda fold: fold, in_exams], ids=["images", "exams"])
def test_remembered_passes_have_the_bits_of_passes_made_each_time(site: Site, form: object) -> None:
    one, other = drawn(site, 1), drawn(site, 2)
    twin = {name: value.clone() for name, value in one.items()}
    headless = one | {name: -value for name, value in one.items() if name.startswith("head.")}
    folds = [form(site.cohort.folds[name]) for name in ("train", "val")]  # type: ignore[operator]
    plain = [
        [(scores_of(site, weights, fold), features_of(site, weights, fold)) for fold in folds]
        for weights in (one, other, twin, headless)
    ]
    known = remembering(site)
    for _ in range(2):  # in the second turn all are known
        for expected, weights in zip(plain, (one, other, twin, headless), strict=True):
            for (scores, features), fold in zip(expected, folds, strict=True):
                assert scores_of(known, weights, fold).tobytes() == scores.tobytes()
                assert features_of(known, weights, fold).tobytes() == features.tobytes()
    assert not np.array_equal(plain[0][0][0], plain[3][0][0])  # the case of another head is one


@pytest.mark.parametrize("networks", ["one", "two", "pool of one"])
def test_at_the_end_of_a_run_each_image_passes_through_each_network_once(site: Site, networks: str) -> None:
    """A pool of two that is judged against one between them has three networks."""
    run = {**RUN, "pool": {"networks": "two" if networks == "two" else "evidence"}}
    here = replace(site, config=RunConfig.model_validate(run))
    own, joint = drawn(here, 1), drawn(here, 2)
    known, passed = remembering(here), 0

    def count(_module: object, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
        nonlocal passed
        passed += len(inputs[0]) if not known.model.training else 0

    def ended(at: Site) -> tuple[object, object]:
        outcome = finish_one(at, own) if networks == "one" else finish(at, own, joint)
        return outcome, statistics_of(at, outcome.used)

    hook = here.model.backbone.register_forward_hook(count)
    try:
        outcome, statistics = ended(known)
    finally:
        hook.remove()
    sizes = {name: fold.num_images for name, fold in here.cohort.folds.items()}
    if networks == "one":
        wanted = sum(sizes.values())
    else:
        used = outcome.models["pool"]  # type: ignore[attr-defined]
        of_one = sizes["train"] + sizes["val"] if networks == "pool of one" else 0
        of_test = sizes["test"] * (2 if isinstance(used, PooledModel) else 3)
        wanted = 2 * (sizes["train"] + sizes["val"]) + of_one + of_test
    assert passed == wanted
    again, told = ended(here)
    assert told == statistics
    for split in ("test", "val"):
        for name, scores in getattr(again, split).items():
            assert scores.tobytes() == getattr(outcome, split)[name].tobytes()


def test_a_site_with_features_in_place_of_images_remembers_nothing_of_the_images(site: Site) -> None:
    assert on_features(remembering(site), drawn(site, 1)).passes is None


def test_only_features_that_are_asked_for_again_and_few_are_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = drawn(site, 1)
    many = replace(site.cohort.folds["train"], lengths=np.array([9, 1]), labels=np.array([0, 1]), rows=np.arange(10),
                   patients=np.array([0, 1]), identities=site.cohort.folds["train"].identities[:2])  # fmt: skip
    folds = {**site.cohort.folds, "train": many}
    here = remembering(replace(site, cohort=replace(site.cohort, folds=folds)))
    assert here.passes is not None
    for fold in folds.values():
        scores_of(here, weights, fold)
    assert [found for _, found in here.passes.features] == [id(folds["val"])]  # not of test images, nor of long exams
    assert len(here.passes.scores) == 3
    monkeypatch.setattr("cdtl_core.federation.passes._MOST", folds["val"].num_images * site.model.head.in_features - 1)
    few = remembering(here)
    assert few.passes is not None
    scores_of(few, weights, folds["val"])
    assert not few.passes.features
