"""Statistics of training images: hand numbers, what the file holds, and what a private run's card says about it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.errors import ModelError
from cdtl_core.inference import likeness
from cdtl_core.inference.likeness import DETAILS, MEASURES, Gauge, Likeness, load_likeness, measure, save_likeness
from cdtl_core.results.card import known_limits
from cdtl_core.results.scores import TEST_FILE, VALIDATION_FILE
from tests.conftest import Played


def test_a_distance_is_the_root_mean_square_in_spreads() -> None:
    gauge = Gauge(mean=(1.0, 10.0), spread=(1.0, 5.0), threshold=2.0)
    assert gauge.deviations(np.array([[4.0, 10.0]])).tolist() == [[3.0, 0.0]]
    assert gauge.distances(np.array([[1.0, 10.0], [4.0, 30.0]])) == pytest.approx([0.0, np.sqrt((9 + 16) / 2)])


def test_the_threshold_is_what_one_in_500_images_of_the_kind_exceeds() -> None:
    rng = np.random.default_rng(0)
    train = np.hstack([rng.normal(size=(4000, 8)), np.full((4000, 1), 7.0)])
    found = []
    for count in (10, 40, 400):
        gauges = [likeness.gauge_of(train, train[rng.integers(0, 4000, count)]) for _ in range(100)]
        found.append(np.mean([(gauge.distances(train) > gauge.threshold).mean() for gauge in gauges]))
    assert gauges[0].spread[-1] == pytest.approx(0.05 * train.std(axis=0).mean())  # a constant feature
    assert max(found) < 0.004
    assert min(found) > 0.001


def test_a_gray_image_measures_the_same_in_one_channel_and_in_three() -> None:
    gray = np.random.default_rng(0).integers(0, 255, (1, 32, 32), np.uint8)
    assert measure(gray) == pytest.approx(measure(np.repeat(gray, 3, axis=0)))
    assert len(measure(gray)) == len(MEASURES) + len(DETAILS)
    assert measure(gray)[:2] == pytest.approx([gray.mean(), gray.std()])


def test_damaged_statistics_are_a_sentence(tmp_path: Path) -> None:
    save_likeness(
        tmp_path, Likeness(weights_sha256="a", images=1, validation=1, coloured=0, pixels=None, features=None)
    )
    with pytest.raises(ModelError, match="another model"):
        load_likeness(tmp_path, "b")
    (tmp_path / likeness.STATISTICS_FILE).write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_likeness(tmp_path, "a")
    assert load_likeness(tmp_path / "none", "a") is None


@pytest.mark.attack("no image is in the statistics beside a model", "look for names, and for more values than measures")
def test_the_file_holds_means_over_images_and_nothing_of_one(
    played: Played, tiny: Callable[..., SimulationConfig]
) -> None:
    many = {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 80, "seed": 1}}}
    few = {"site": "como", "modality": "histology", "data": {"phantom": {"patients": 12, "seed": 3}}}
    run = played(tiny(methods=("fedbn",), sites=[many, few]))
    sent = b"".join(
        array.data for pair in run.messages for one in pair for record in one.content.array_records.values()
        for array in record.values()
    )  # fmt: skip
    assert len(sent) > 10_000
    gauged = 0
    for site in ("alba", "como"):
        text = (run.out / "sites" / site / likeness.STATISTICS_FILE).read_text()
        told = json.loads(text)
        assert told["images"] > told["validation"]
        assert set(told) == set(Likeness.model_fields)
        for name, count in (("pixels", 10), ("features", 32)):
            gauge = told[name]
            if gauge is None:
                continue
            gauged += 1
            assert (len(gauge["mean"]), len(gauge["spread"])) == (count, count)
            for values in (gauge["mean"], gauge["spread"]):
                assert not any(np.array(values, kind).tobytes() in sent for kind in ("<f4", "<f8"))
        assert ".png" not in text
    assert gauged == 2  # of the site with enough validation images
    for asked, reply in run.messages:
        assert b"spread" not in repr(asked.content).encode() + repr(reply.content).encode()


def test_a_private_models_card_says_to_remove_what_describes_patients() -> None:
    for private in (True, False):
        limits = known_limits(
            synthetic=False, test_patients=200, has_interval=True, calibrated=True, private=private, gain=None
        )
        for name in (likeness.STATISTICS_FILE, TEST_FILE, VALIDATION_FILE):
            assert any(name in limit for limit in limits) is private
