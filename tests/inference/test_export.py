"""ONNX gives torch's calibrated probabilities; a model that cannot be exported gives a sentence."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from cdtl_core.config import ModelConfig, Pooling, Unit
from cdtl_core.data.transforms import normalise
from cdtl_core.errors import DataError, ModelError
from cdtl_core.federation.donors import DonorShare
from cdtl_core.federation.pool import Pool, Standard
from cdtl_core.inference import export as exporting
from cdtl_core.inference.export import TOLERANCE, export_onnx
from cdtl_core.inference.likeness import Gauge, Likeness, save_likeness
from cdtl_core.inference.model_folder import ModelNote, PoolNote, load_model
from cdtl_core.inference.predict import predict
from cdtl_core.models.exams import Exams
from cdtl_core.models.model import build_classifier
from cdtl_core.models.weights import save_weights
from cdtl_core.system.durable import file_hash
from tests.stub import STUB

pytestmark = pytest.mark.integration


def model_folder(home: Path, pooling: Pooling = "mean", unit: Unit = "image") -> Path:
    """A calibrated model with everything a network may have."""
    config = ModelConfig(backbone=STUB, weights="random", levels=(2, 4), adapter=4, pooling=pooling)
    model = build_classifier(config, 2, 32)
    torch.manual_seed(0)
    for parameter in (model.head.weight, *model.pooling.parameters()):
        torch.nn.init.normal_(parameter)
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if value.is_floating_point()}
    save_weights(home / "model.safetensors", weights)
    note = ModelNote(
        cdtl_version="0", federation="f-cdtl", method="cdtl", seed=0, site="alba", modality="mri",
        backbone=config.backbone, levels=config.levels, adapter=4, labels=("benign", "malignant"), positive="malignant",
        pooling=pooling, unit=unit, image_size=32, temperature=2.5, chosen="joint", validation_log_loss={},
        weights_sha256=file_hash(home / "model.safetensors"),
    )  # fmt: skip
    (home / "model.json").write_text(note.model_dump_json())
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, ...]:
    rng, paths = np.random.default_rng(0), []
    for number, shape in enumerate([(40, 30), (32, 32, 3), (50, 64)]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(paths[-1])
    return tuple(paths)


def test_predict_applies_the_temperature(folder: Path, images: tuple[Path, ...]) -> None:
    calibrated = predict(folder, images)
    note = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(note | {"temperature": None}))
    raw = predict(folder, images)
    assert (calibrated.kind, raw.kind) == ("calibrated", "raw")
    scaled = np.log(raw.probabilities) / 2.5
    expected = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    assert calibrated.probabilities == pytest.approx(expected, abs=1e-9)


def test_a_model_of_lesions_looks_at_the_box_and_wants_one_for_each_image(folder: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (40, 60), np.uint8)
    Image.fromarray(image).save(tmp_path / "film.png")
    Image.fromarray(image[10:30, 20:40]).save(tmp_path / "lesion.png")
    expected = predict(folder, [tmp_path / "lesion.png"])
    with pytest.raises(DataError, match="leave out --box"):
        predict(folder, [tmp_path / "lesion.png"], ["1,2,3,4"])
    note = json.loads((folder / "model.json").read_text())
    box = {"column": "bbox", "scale": "scale", "margin": 2.0, "least_px": 1}
    (folder / "model.json").write_text(json.dumps(note | {"box": box}))
    found = predict(folder, [tmp_path / "film.png"], ["25,15,10,6"])
    assert found.probabilities.tolist() != expected.probabilities.tolist()  # the box's middle is at 30, 18
    found = predict(folder, [tmp_path / "film.png"], ["25,15,10,10"])
    assert found.probabilities.tolist() == expected.probabilities.tolist()
    with pytest.raises(DataError, match="for each of 1 images"):
        predict(folder, [tmp_path / "film.png"])


@pytest.mark.filterwarnings("ignore")
def test_onnx_says_what_predict_says_in_batches_of_any_size(folder: Path, images: tuple[Path, ...]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    mean = 1234.56789
    gauge = Gauge(mean=(mean,) * 10, spread=(2.0,) * 10, threshold=3.0)
    weights = json.loads((folder / "model.json").read_text())["weights_sha256"]
    told_apart = {"images": 1, "validation": 1, "coloured": 0, "pixels": gauge, "features": None}
    save_likeness(folder, Likeness(weights_sha256=weights, **told_apart))
    before = set(folder.iterdir())
    done = export_onnx(folder, folder / "model.onnx", images)
    assert set(folder.iterdir()) == before | {folder / "model.onnx"}
    written = (folder / "model.onnx").read_bytes()
    assert not any(one in written for one in (b"1234.5", np.float32(mean).tobytes(), np.float64(mean).tobytes()))
    assert done.images == 3
    assert done.largest_difference < TOLERANCE
    session = runtime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    pixels = exporting._read(images, 32)
    together = session.run(None, {"images": pixels})[0]
    assert together == pytest.approx(predict(folder, images).probabilities, abs=1e-4)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["labels"]) == ["benign", "malignant"]
    assert told["use"] == "research only"


def test_what_differs_is_not_written(folder: Path, images: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="nothing was written"):
        export_onnx(folder, folder / "model.onnx", images)
    assert not (folder / "model.onnx").exists()


def test_a_missing_library_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ModelError, match=r"pip install 'cdtl\[onnx\]'"):
        export_onnx(folder, folder / "model.onnx")


@pytest.fixture
def pooled(tmp_path: Path) -> tuple[Path, Pool]:
    """Two networks of one site, pooled; the joint one is surer of itself."""
    config, home, tensors = ModelConfig(backbone=STUB, weights="random"), tmp_path / "pooled", {}
    for number, part in enumerate(("own", "joint")):
        torch.manual_seed(number)
        model = build_classifier(config, 2, 32)
        torch.nn.init.normal_(model.head.weight, std=0.1 + number)
        weights = {name: value.contiguous() for name, value in model.state_dict().items() if value.is_floating_point()}
        save_weights(home / f"{part}.safetensors", weights)
        tensors |= {f"{part}.{name}": value for name, value in weights.items()}
    save_weights(home / "model.safetensors", tensors)
    standards = Standard(np.array([-0.1, 0.1]), 0.5), Standard(np.array([0.3, -0.3]), 2.0)
    pool = Pool(*standards, 0.8, 1.5, np.array([-0.2, 0.2]), "evidence", 40)
    note = ModelNote(
        cdtl_version="0", federation="f", method="cdtl", seed=0, site="alba", modality="mri", backbone=config.backbone,
        labels=("benign", "malignant"), positive="malignant", image_size=32, temperature=None, chosen="pool",
        pool=PoolNote.of(pool, [DonorShare("mri", 0.6, 0.3, 0.9)]), networks=2, validation_log_loss={},
        weights_sha256=file_hash(home / "model.safetensors"),
        others_sha256={f"{part}.safetensors": file_hash(home / f"{part}.safetensors") for part in ("own", "joint")},
    )  # fmt: skip
    (home / "model.json").write_text(note.model_dump_json())
    return home, pool


@pytest.mark.filterwarnings("ignore")
def test_two_pooled_networks_are_one_file_that_says_what_the_pool_says(
    pooled: tuple[Path, Pool], images: tuple[Path, ...]
) -> None:
    home, pool = pooled
    pixels = torch.from_numpy(exporting._read(images, 32))
    logits = []
    for which in ("own", "joint"):
        model, _ = load_model(home, which)
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (model.mean, model.std))
        with torch.inference_mode():
            logits.append(model.eval()((pixels - mean) / std).double().numpy())
    expected = np.exp(pool(*logits))
    assert predict(home, images).probabilities == pytest.approx(expected, abs=1e-5)
    pytest.importorskip("onnxscript")
    assert export_onnx(home, home / "model.onnx", images).largest_difference < TOLERANCE
    runtime = pytest.importorskip("onnxruntime")
    told = runtime.InferenceSession(home / "model.onnx").get_modelmeta().custom_metadata_map["pool"]
    assert "share" in json.loads(told)
    assert "donors" not in json.loads(told)


@pytest.mark.attack("a part without privacy stays at the site", "export a pooled model of a private run")
def test_a_model_with_a_part_that_is_not_private_is_not_exported_and_the_joint_one_is(
    pooled: tuple[Path, Pool], images: tuple[Path, ...]
) -> None:
    pytest.importorskip("onnxscript")
    home, _ = pooled
    note = json.loads((home / "model.json").read_text())
    (home / "model.json").write_text(json.dumps(note | {"stays": True}))
    for which in ("used", "own"):
        with pytest.raises(ModelError, match="must not leave the site"):
            export_onnx(home, home / "model.onnx", images, which)
    assert not (home / "model.onnx").exists()


def test_another_schema_is_refused_with_a_sentence(folder: Path) -> None:
    note = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(note | {"schema_version": 1}))
    with pytest.raises(ModelError, match="has schema 1, this cdtl reads 2"):
        load_model(folder)


@pytest.mark.parametrize(
    "pooling",
    [
        pytest.param(one, marks=[] if one == "attention" else [pytest.mark.slow, pytest.mark.ci])
        for one in get_args(Pooling)
    ],
)
def test_the_file_of_a_model_of_exams_takes_all_images_of_one(
    tmp_path: Path, images: tuple[Path, ...], pooling: Pooling
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    home = model_folder(tmp_path / "model", pooling, "exam")
    exported = export_onnx(home, tmp_path / "exam.onnx", images)
    assert exported.largest_difference < TOLERANCE
    model, note = load_model(home)
    session = onnxruntime.InferenceSession(str(exported.path))
    pixels = exporting._read(images, 32)
    for count in (1, 2, 3):
        batch = normalise(torch.from_numpy(pixels[:count]), model.mean, model.std)
        with torch.no_grad():
            expected = (model.eval()(Exams(batch, (count,))) / note.temperature).softmax(dim=1)
        assert session.run(None, {"images": pixels[:count]})[0] == pytest.approx(expected.numpy(), abs=1e-4)
