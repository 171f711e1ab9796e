"""Low-rank adapters: a backbone's linear layers keep their weights, and each gets a small trained product beside them.

Source: Hu et al. 2022 (LoRA); Guo et al. 2025 (FedSA-LoRA: A is shared, B stays at the site).
"""

from torch import Tensor, nn

from cdtl_core.errors import ModelError

__all__ = ["LoraLinear", "add_lora", "is_lora", "is_lora_b", "merge_lora"]

_SCALE = 2.0
_A, _B = ".lora_a.weight", ".lora_b.weight"


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank product: ``W x + b + 2 B A x``. B is zero at first, so nothing changes.

    Args:
        layer: Its weight and bias are shared with this layer, under the same names.
        rank: Rows of A.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_a = nn.Linear(layer.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, features: Tensor) -> Tensor:
        """... D to ... E."""
        product: Tensor = self.lora_b(self.lora_a(features))
        return super().forward(features) + _SCALE * product


def add_lora(backbone: nn.Module, rank: int) -> None:
    """Give every linear layer of a backbone a low-rank product, in place.

    Args:
        backbone: Its layers keep their names; a vision transformer has them in attention and perceptron.
        rank: Rank of the products, 1 or more.

    Raises:
        ModelError: It has no linear layer.
    """
    found = [(name, layer) for name, layer in backbone.named_modules() if type(layer) is nn.Linear]
    if not found:
        raise ModelError(
            "model.lora needs linear layers, and this backbone has none: choose a vision transformer, or set "
            "model.lora to 0."
        )
    for name, layer in found:
        parent, _, key = name.rpartition(".")
        setattr(backbone.get_submodule(parent), key, LoraLinear(layer, rank))


def merge_lora(backbone: nn.Module) -> None:
    """Put every low-rank product into the weight of its layer, in place: the same function, without adapters."""
    for name, layer in list(backbone.named_modules()):
        if isinstance(layer, LoraLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            product = layer.lora_b.weight.detach() @ layer.lora_a.weight.detach()
            plain.weight, plain.bias = nn.Parameter(layer.weight.detach() + _SCALE * product), layer.bias
            parent, _, key = name.rpartition(".")
            setattr(backbone.get_submodule(parent), key, plain)


def is_lora(name: str) -> bool:
    """Whether a tensor belongs to a low-rank product."""
    return name.endswith((_A, _B))


def is_lora_b(name: str) -> bool:
    """Whether a tensor is the B of a low-rank product, which stays at the site with ``model.lora_shared = "a"``."""
    return name.endswith(_B)
