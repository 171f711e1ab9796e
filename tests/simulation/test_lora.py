"""A federation of low-rank adapters: what leaves, what stays, and what comes of it."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from cdtl_core.config import ModelConfig, SimulationConfig
from cdtl_core.federation.packing import arrays_of
from cdtl_core.inference.export import export_onnx
from cdtl_core.inference.model_folder import load_model
from cdtl_core.models.lora import is_lora, is_lora_b
from tests.conftest import Played

pytestmark = pytest.mark.integration
Tiny = Callable[..., SimulationConfig]


@pytest.fixture(params=["both", "a"])
def federation(request: pytest.FixtureRequest, tiny: Tiny) -> SimulationConfig:
    config = tiny(train={"steps": 1})
    model = ModelConfig(backbone="test_vit", weights="random", lora=2, lora_shared=request.param)
    return config.model_copy(update={"run": config.run.model_copy(update={"model": model})})


def test_adapters_and_head_leave_and_nothing_else(federation: SimulationConfig, played: Played) -> None:
    seen = played(federation).messages
    sent = [set(arrays_of(reply.content, "delta")) for asked, reply in seen if asked.metadata.message_type == "train"]
    assert len(sent) == 9  # of three sites in three rounds
    for names in sent:
        assert {name for name in names if not is_lora(name) and not name.startswith("head.")} == set()
        assert any(is_lora_b(name) for name in names) == (federation.run.model.lora_shared == "both")
        assert any(is_lora(name) and not is_lora_b(name) for name in names)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("federation", ["both"], indirect=True)
def test_each_site_gets_a_model_that_is_exported_merged(
    federation: SimulationConfig, played: Played, tmp_path: Path
) -> None:
    folder = played(federation).out / "sites" / "alba"
    model, note = load_model(folder)
    assert note.lora == 2
    moved = [value for name, value in model.state_dict().items() if is_lora_b(name)]
    assert moved
    assert any(value.any() for value in moved)  # B starts at zero
    export_onnx(folder, tmp_path / "model.onnx")
    names = [one.name for one in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert names
    assert not any("lora" in name for name in names)
