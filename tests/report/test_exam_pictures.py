"""A site's own report shows the images of an exam with their weight; no other page and no message does."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.report.find import page_of
from cdtl_core.report.page import page_html
from tests.conftest import Played, Run

SITES = [
    {"site": "alba", "modality": "ultrasound", "data": {"phantom": {"patients": 24, "seed": 1, "images": [2, 4]}}},
    {
        "site": "west",
        "modality": "mri",
        "data": {"phantom": {"patients": 16, "seed": 3, "images": 11, "series": True}},
    },
]


@pytest.fixture
def run(played: Played, tiny: Callable[..., SimulationConfig]) -> Run:
    model = {"pooling": "attention", "levels": [2, 3]}
    train = {"freeze": 3, "views": 1, "steps": 8, "exam_images": 3}
    return played(
        tiny(
            sites=SITES, task={"unit": "exam"}, model=model, train=train, federation={"rounds": 1}, blend={"settle": 0}
        )
    )


def html(folder: Path) -> str:
    return page_html(page_of(folder))


def test_weights_of_an_exam_add_up_and_stand_beside_its_images(run: Run) -> None:
    page = html(run.out / "sites" / "alba")
    section = page[page.index('<section id="examples"') :]
    galleries = section.split('<ul class="gallery">')[1:]
    assert galleries
    for gallery in galleries:
        listed = gallery.split("</ul>")[0]
        shares = [float(value) for value in re.findall(r'<meter min="0" max="1" value="([\d.]+)"', listed)]
        assert 2 <= len(shares) == listed.count("<img") <= 4
        assert sum(shares) == pytest.approx(1, abs=0.002)
    assert "the weights of an exam add up to 100 %" in section
    assert re.search(r"of 100 pairs of a positive and a negative test exam|Test exams only", page)


def test_of_a_volume_the_eight_heaviest_slices_are_shown_and_the_rest_is_told(run: Run) -> None:
    page = html(run.out / "sites" / "west")
    gallery = page.split('<ul class="gallery">')[1]
    places = [int(place) for place in re.findall(r"image (\d+) of 11</p>", gallery.split("</ul>")[0])]
    assert len(places) == 8
    assert places == sorted(places)
    assert re.search(r"The 8 images with the largest weights; the 3 others have \d+ % together\.", gallery)


def test_exams_of_very_many_images_are_shown_as_far_as_time_allows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdtl_core.report.examples._MOST_IMAGES", 12)
    page = html(run.out / "sites" / "west")
    assert page.count('<ul class="gallery">') == 1
    assert re.search(r"\d more would take long: their weights need all of their images\.", page)


def test_the_cohort_table_counts_exams_and_their_labels(run: Run) -> None:
    page = html(run.out / "sites" / "alba")
    site = run.report.sites[0]
    assert run.report.unit == "exam"
    rows = dict(re.findall(r'<th scope="row">(patients|exams|images)</th>\s*<td[^>]*>(\d+)</td>', page))
    assert int(rows["patients"]) == int(rows["exams"]) == site.patients.train
    assert int(rows["images"]) == site.images.train > site.patients.train
    card = (run.out / "sites" / "alba" / "models" / "tiny-cdtl" / "model_card.md").read_text()
    assert f"| exams | {site.patients.train} |" in card
    assert "| exams, positive |" in card


def test_no_other_page_shows_an_image_or_a_weight(run: Run) -> None:
    page = html(run.out)
    assert "<img" not in page
    assert "<meter" not in page
    assert "Test exams only" in page
