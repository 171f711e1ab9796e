"""Three modalities with different numbers of images per exam, over TLS: the bits of the simulation."""

from pathlib import Path

import pytest

from tests.deploy.deployment import MODEL
from tests.deploy.joined import ALL, Make, Tiny, expect_models_of, make, under_way

__all__ = ["make"]
pytestmark = pytest.mark.slow
SITES = [
    {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 16, "seed": 1, "images": (2, 6)}}},
    {"site": "bari", "modality": "mammography", "data": {"phantom": {"patients": 14, "seed": 2, "images": 4}}},
    {
        "site": "como",
        "modality": "mri",
        "data": {"phantom": {"patients": 14, "seed": 3, "images": 12, "series": True}, "slices": 6},
    },
]


def test_sites_with_exams_of_different_lengths_end_as_the_simulation_does(
    tiny: Tiny, make: Make, tmp_path: Path
) -> None:
    run = {"model": {**MODEL, "pooling": "attention"}, "train": {"exam_images": 3}, "task": {"unit": "exam"}}
    config = tiny(sites=SITES, **{**ALL, **run})
    deployment, played = under_way(make(config), config)
    assert deployment.ended(played) == "completed", deployment.story()
    assert not any(line.get("refused") for line in deployment.lines(played))
    deployment.stop()
    expect_models_of(config, deployment, tmp_path / "simulated")
