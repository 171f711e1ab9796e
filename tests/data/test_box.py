"""Lesions cut out by the box that a manifest names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdtl_core.config import BoxConfig
from cdtl_core.data.box import Square, cut, square_of
from cdtl_core.data.manifest import read_manifest
from cdtl_core.data.pixels import load_pixels
from cdtl_core.errors import ConfigError, DataError

BOX = BoxConfig(column="box", margin=1.5, least_px=4)


def test_the_square_is_around_the_box_and_wider_by_the_margin() -> None:
    assert square_of({"box": "[10, 20, 8, 4]"}, BOX, "a.png") == Square(left=8, top=16, side=12)


def test_a_scale_leads_from_the_box_to_the_file() -> None:
    box = BOX.model_copy(update={"scale": "scale"})
    assert square_of({"box": "20,40,16,8", "scale": "0.5"}, box, "a.png") == Square(left=8, top=16, side=12)


def test_a_small_box_gives_the_least_square() -> None:
    assert square_of({"box": "10,20,1,1"}, BOX, "a.png").side == 4


def test_beyond_the_edges_it_is_black() -> None:
    found = cut(np.full((6, 6), 9, np.uint8), Square(-2, 3, 4))
    assert found.tolist() == [[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 0, 0]]


@pytest.mark.parametrize("cell", ["", "1,2,3", "1,2,3,x", "1,2,nan,4", "1,2,0,4", "1,2,-3,4"])
def test_a_cell_without_a_box_is_refused(cell: str) -> None:
    with pytest.raises(DataError, match=r"a\.png"):
        square_of({"box": cell}, BOX, "a.png")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ConfigError, match="the column box, the manifest has x"):
        square_of({"x": "1"}, BOX, "a.png")


def test_a_square_outside_its_image_is_refused() -> None:
    with pytest.raises(DataError, match="outside its image of 6 x 6"):
        cut(np.zeros((6, 6), np.uint8), Square(7, 0, 3))


def test_a_manifest_with_boxes_is_decoded_cut_and_kept_apart_from_whole_images(tmp_path: Path) -> None:
    image = np.zeros((40, 60), np.uint8)
    image[10:20, 30:40] = 200
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text('file,label,patient_id,box\na.png,no,p1,"30,10,10,10"\n')
    (case,) = read_manifest(tmp_path / "m.csv", labels=("no",), box=BoxConfig(column="box", margin=1, least_px=1))
    assert case.square == Square(30, 10, 10)
    whole = load_pixels([case.file], size=32, folder=tmp_path / "cache").array
    lesion = load_pixels([case.file], size=32, folder=tmp_path / "cache", squares=[case.square]).array
    assert lesion.min() == 200
    assert whole.min() == 0
