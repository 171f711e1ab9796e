"""Low-rank adapters: only they are trained and sent, the network is the same at first, and export merges them."""

import pytest
import torch
from torch import nn

from cdtl_core.config import ModelConfig
from cdtl_core.errors import ModelError
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.lora import LoraLinear, is_lora, is_lora_b, merge_lora
from cdtl_core.models.model import Classifier, build_classifier, parts_of, set_training

DINOV2 = "vit_small_patch14_dinov2"


def vit(**model: object) -> Classifier:
    config = ModelConfig.model_validate({"backbone": "test_vit", "weights": "random", "lora": 2, **model})
    return build_classifier(config, 2, 64)


def stirred(model: Classifier) -> Classifier:
    """The same network with adapters and head as training may leave them."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if is_lora(name) or name.startswith("head."):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_a_layer_adds_twice_the_product_of_b_and_a() -> None:
    layer = LoraLinear(nn.Linear(2, 3), 1)
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.tensor([0.5, 0, 0])
    layer.lora_a.weight.data, layer.lora_b.weight.data = torch.tensor([[1.0, -1]]), torch.tensor([[1.0], [0], [10]])
    # W x + b = (3.5, 1, 4); A x = 2; 2 B A x = (4, 0, 40)
    torch.testing.assert_close(layer(torch.tensor([3.0, 1])), torch.tensor([7.5, 1, 44]))


def test_adapters_change_no_bit_of_the_network_at_first() -> None:
    config = ModelConfig(backbone="test_vit", weights="random")
    plain, adapted = (
        build_initial_weights(config, 3, 64),
        build_initial_weights(config.model_copy(update={"lora": 2}), 3, 64),
    )
    assert all(adapted[name].equal(value) for name, value in plain.items())
    assert all(is_lora(name) for name in adapted.keys() - plain.keys())
    one, other = build_classifier(config, 2, 64), vit()
    for model, weights in ((one, plain), (other, adapted)):
        model.load_state_dict(weights, strict=False)
        nn.init.ones_(model.head.weight)
    images = torch.randn(2, 3, 64, 64)
    assert one.eval()(images).equal(other.eval()(images))


def test_what_is_trained_and_sent_is_adapters_and_head() -> None:
    model = vit()
    parts = parts_of(model, freeze=0, share_head=True)
    assert parts.local == ()
    assert {name for name in parts.shared if not is_lora(name)} == {"head.weight", "head.bias"}
    assert (
        len(parts.shared) == 2 + 2 * 4 * 6
    )  # A and B of qkv, projection and two layers of the perceptron, in 6 blocks
    set_training(model, freeze=0)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == set(parts.shared)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stirred(model).train()(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items() if name not in parts.shared)


def test_frozen_stages_have_no_trained_adapters() -> None:
    shared = parts_of(vit(), freeze=5, share_head=True).shared
    assert {name.split(".")[2] for name in shared if is_lora(name)} == {"4", "5"}


def test_b_stays_where_only_a_is_shared() -> None:
    parts = parts_of(vit(lora_shared="a"), freeze=0, share_head=True)
    assert not any(is_lora_b(name) for name in parts.shared)
    assert len([name for name in parts.local if is_lora_b(name)]) == 24
    assert all(is_lora_b(name) for name in parts.local)


def test_a_round_of_dinov2_is_below_a_megabyte() -> None:
    config = ModelConfig(backbone=DINOV2, weights="random", lora=4)
    model = build_classifier(config, 2, 56)
    shared, state = parts_of(model, freeze=0, share_head=True).shared, model.state_dict()
    assert 2 * sum(state[name].numel() for name in shared) < 0.6e6  # float16; the whole network: 43 MB
    every = sum(value.numel() for name, value in state.items() if not is_lora(name))
    assert 2 * every > 40e6


def test_a_merged_network_is_the_same_function_without_adapters() -> None:
    model, images = stirred(vit()), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
    merge_lora(model.backbone)
    assert not any(is_lora(name) for name in model.state_dict())
    assert type(model.backbone.get_submodule("blocks.0.attn.qkv")) is nn.Linear
    with torch.inference_mode():
        torch.testing.assert_close(model(images), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "freeze", "said"),
    [
        ({"backbone": "test_resnet"}, 0, "this backbone has none"),
        ({}, 7, r"model\.lora trains nothing.*lower train\.freeze"),
        ({"levels": (2, 3)}, 3, r"model\.lora trains nothing"),
    ],
)
def test_adapters_that_could_do_nothing_are_refused(model: dict[str, object], freeze: int, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        parts_of(vit(**model), freeze=freeze, share_head=True)
