"""One network between two: hand numbers, two distant networks, and what every reader of a model gets."""

# mypy: disable-error-code=arg-type

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import save_toml
from cdtl_core.federation.evidence import PooledModel, pool_models, score_model
from cdtl_core.federation.finish import finish
from cdtl_core.federation.model_selection import POOL
from cdtl_core.federation.one_network import between, differ_in_heads_only, with_one_network
from cdtl_core.federation.pool import Pool, Standard
from cdtl_core.federation.site import Site, with_fresh_norms
from cdtl_core.inference.export import TOLERANCE, export_onnx
from cdtl_core.inference.model_folder import PooledNetwork, load_model, save_model
from cdtl_core.metrics.metrics import log_loss_by_patient
from cdtl_core.models.weights import Weights, load_into
from cdtl_core.site.home import open_site
from cdtl_core.training.saliency import grad_cam
from cdtl_core.training.scoring import score
from tests.stub import STUB

RUN = {
    "name": "tiny",
    "image": {"size": 48},
    "model": {"backbone": STUB, "weights": "random"},
    "split": {"test": 0.25, "val": 0.4},
    "pool": {"networks": "evidence"},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with 32 validation patients, whose malignant images are mostly brighter on the left."""
    home = tmp_path_factory.mktemp("site") / "alba"
    own = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 80, "seed": 1}}}
    save_toml(home / SITE_FILE, SiteConfig.model_validate(own).model_dump(mode="json", exclude_none=True))
    found, rng = open_site(home, RunConfig.model_validate(RUN)), np.random.default_rng(0)
    folds = found.cohort.folds
    pixels = folds["train"].pixels.astype(float)
    for fold in folds.values():
        shift = 24.0 * (2 * fold.labels - 1) + rng.normal(size=fold.num_images) * 24
        pixels[fold.rows, :, :, :24] += shift[:, None, None, None]
    bright = pixels.clip(0, 255).astype(np.uint8)
    return replace(found, cohort=replace(found.cohort, folds={k: replace(v, pixels=bright) for k, v in folds.items()}))


def trained(site: Site, seed: int, near: Weights | None = None) -> Weights:
    """A network that knows its training images: a random backbone, or one near to that of `near`, and a fitted head."""
    torch.manual_seed(seed)
    model = site.model
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn_like(value) / max(1, value[0].numel()) ** 0.5 if value.ndim > 1 else None
            start = near[name] if near else value if drawn is None else drawn
            value.copy_(start + (0.05 * drawn if near and drawn is not None else 0))
    weights = with_fresh_norms(site)
    load_into(model, weights)
    model.eval()
    train = site.cohort.folds["train"]
    features = []
    hook = model.head.register_forward_hook(lambda _module, inputs, _output: features.append(inputs[0]))
    score(model, train, device=site.device)
    hook.remove()
    found = torch.cat(features).double()
    centred = found - found.mean(dim=0)
    target = torch.from_numpy(2.0 * (train.labels == 1) - 1)
    ridge = 0.1 * len(centred) * centred.var() * torch.eye(centred.shape[1])
    slope = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ target)
    weights["head.weight"] = torch.stack([-slope, slope]).float()
    weights["head.bias"] = -weights["head.weight"] @ found.mean(dim=0).float()
    return weights


@pytest.fixture(scope="module")
def pair(site: Site) -> tuple[Weights, Weights]:
    """Two networks close to each other, as those that start at the same weights."""
    own = trained(site, 1)
    return own, trained(site, 2, near=own)


@pytest.fixture(scope="module")
def strangers(site: Site) -> tuple[Weights, Weights]:
    """Two networks that have nothing to do with each other: what lies between them knows nothing."""
    return trained(site, 3), trained(site, 4)


def test_the_weights_between_by_hand() -> None:
    own = {
        "backbone.w": torch.tensor([1.0, 5.0]),
        "head.weight": torch.tensor([[4.0]]),
        "head.bias": torch.tensor([2.0]),
    }
    joint = {
        "backbone.w": torch.tensor([4.0, 5.0]),
        "head.weight": torch.tensor([[1.5]]),
        "head.bias": torch.tensor([0.0]),
    }
    zero = np.zeros(2)
    found = [
        between(PooledModel(own, joint, Pool(Standard(zero, 4.0), Standard(zero, 0.5), share, 1.0, zero, "equal", 0)))
        for share in (0.0, 0.5, 1.0)
    ]
    assert [one["backbone.w"].tolist() for one in found] == [[1, 5], [2, 5], [2.5, 5]]
    assert [one["head.weight"].item() for one in found] == [1, pytest.approx(5 / 3), 2]  # 4 / 4 and 1.5 / 0.5
    assert [one["head.bias"].item() for one in found] == [0.5, pytest.approx(1 / 3), 0.25]


def test_where_one_is_no_worse_by_patients_left_out_it_is_used(site: Site, pair: tuple[Weights, Weights]) -> None:
    found = with_one_network(site, pool_models(site, *pair))
    assert found.one is not None
    assert found.networks_log_loss["one"] <= found.networks_log_loss["two"]
    val = site.cohort.folds["val"]
    told = log_loss_by_patient(val.labels, found.val, val.patients).mean()
    assert told == pytest.approx(found.networks_log_loss["one"])
    assert np.abs(score_model(site, found, val) - score_model(site, found.one, val)).max() == 0


def test_where_nothing_lies_between_two_networks_are_kept(site: Site, strangers: tuple[Weights, Weights]) -> None:
    both = pool_models(site, *strangers)
    found = with_one_network(site, both)
    assert found.one is None
    assert found.networks_log_loss["one"] > found.networks_log_loss["two"] + 0.02
    outcome = finish(site, *strangers)
    assert outcome.models[POOL] is outcome.pooled


@pytest.mark.parametrize("why", ["setting", "few", "one class"])
def test_without_enough_evidence_one_is_not_tried(site: Site, pair: tuple[Weights, Weights], why: str) -> None:
    val = site.cohort.folds["val"]
    kept = {"setting": slice(None), "few": slice(0, 10), "one class": val.labels == 0}[why]
    folds = {**site.cohort.folds, "val": val.where(np.arange(val.num_images)[kept])}
    config = site.config.model_copy(update={"pool": site.config.pool.model_copy(update={"networks": "two"})})
    changed = replace(
        site, cohort=replace(site.cohort, folds=folds), config=config if why == "setting" else site.config
    )
    model = pool_models(changed, *pair)
    assert with_one_network(changed, model) is model


def test_a_pool_is_judged_on_patients_it_was_not_fitted_on(site: Site, strangers: tuple[Weights, Weights]) -> None:
    """Labels by chance: what was fitted on them looks better than chance, what was not does not."""
    rng, val = np.random.default_rng(0), site.cohort.folds["val"]
    fitted, left_out = [], []
    for _ in range(6):
        chance = replace(val, labels=rng.permutation(val.labels))
        changed = replace(site, cohort=replace(site.cohort, folds={**site.cohort.folds, "val": chance}))
        model = pool_models(changed, *strangers)
        for scores, losses in ((score_model(changed, model, chance), fitted), (model.val, left_out)):
            losses.append(log_loss_by_patient(chance.labels, scores, chance.patients).mean())
        judged = log_loss_by_patient(chance.labels, model.val, chance.patients).mean()
        alone = changed.config.model_copy(update={"pool": changed.config.pool.model_copy(update={"networks": "two"})})
        assert finish(replace(changed, config=alone), *strangers).selection.losses[POOL] == judged
    assert np.mean(fitted) < np.mean(left_out)
    assert np.mean(left_out) > np.log(2) - 0.01


def test_heads_on_the_same_backbone_are_one_network(site: Site, pair: tuple[Weights, Weights]) -> None:
    own = pair[0]
    joint = own | {"head.weight": own["head.weight"].flip(0) * 0.3 + 0.1, "head.bias": own["head.bias"] + 1}
    outcome = finish(site, own, joint)
    assert differ_in_heads_only(outcome.pooled)
    assert not isinstance(outcome.models[POOL], PooledModel)
    test = site.cohort.folds["test"]
    np.testing.assert_allclose(outcome.test[POOL], score_model(site, outcome.pooled, test), atol=1e-4)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("one", [True, False])
def test_folder_card_heat_map_and_export_know_how_many_networks_there_are(
    site: Site, pair: tuple[Weights, Weights], strangers: tuple[Weights, Weights], tmp_path: Path, one: bool
) -> None:
    outcome = finish(site, *(pair if one else strangers))
    save_model(tmp_path, site, outcome)
    model, note = load_model(tmp_path)
    assert isinstance(model, PooledNetwork) is not one
    assert (note.networks, set(note.networks_log_loss)) == (1 if one else 2, {"one", "two"})
    test = site.cohort.folds["test"]
    np.testing.assert_allclose(score(model, test, device=site.device), outcome.test[note.chosen], atol=1e-5)
    images = torch.randn(2, 3, 48, 48)
    heat = grad_cam(model, images, 1)
    assert heat is not None
    assert heat.shape == (2, 48, 48)
    sizes = [(tmp_path / name).stat().st_size for name in ("model.safetensors", "own.safetensors")]
    assert sizes[0] / sizes[1] == pytest.approx(note.networks, rel=0.05)
    if not one:  # two are exported in test_export.py
        return
    pytest.importorskip("onnxscript")
    assert export_onnx(tmp_path, tmp_path / "model.onnx").largest_difference < TOLERANCE
