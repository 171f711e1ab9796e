"""timm and torchvision, imported without torch's compiler and its exporter.

Both name ``torch._dynamo`` at the top of a file, for functions that are compiled or must not be. Importing it takes a
second of processor time and 150 MB, also in a process that only lists tensors, predicts or adds updates. Here both
get torch's own late forms of what they need. Training loads it anyway: torch's optimizers do. torchvision also loads
the exporter to ONNX, to tell it of operators for detection, which no classifier has.
"""

from collections.abc import Callable
from typing import Any

from torch._compile import _disable_dynamo

from cdtl_core.system.standins import late, stand_in, standing_in

__all__ = ["timm", "torchvision"]


def _disable(fn: Callable[..., Any] | None = None, recursive: bool = True, **_: Any) -> Callable[..., Any]:
    """Exclude a function from compilation, as `torch.compiler.disable`: the compiler is imported when it is called."""
    return _disable_dynamo(fn, recursive)


_utils = stand_in("torch._dynamo.utils", is_compile_supported=late("torch._dynamo.utils", "is_compile_supported"))
_dynamo = stand_in("torch._dynamo", disable=_disable, utils=_utils, __path__=[])
_onnx = stand_in("torchvision.ops._register_onnx_ops", _register_custom_op=lambda: None)
try:
    with standing_in(_dynamo, _utils, _onnx):
        import timm
        import torchvision
except (ImportError, AttributeError):  # another version, which needs more of it
    import timm
    import torchvision
