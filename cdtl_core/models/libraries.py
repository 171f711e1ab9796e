"""timm and torchvision, imported without torch's compiler, its exporter and the client of Hugging Face's hub.

Both name ``torch._dynamo`` at the top of a file, for functions that are compiled or must not be. Importing it takes a
second of processor time and 150 MB, also in a process that only lists tensors, predicts or adds updates. Here both
get torch's own late forms of what they need. Training loads it anyway: torch's optimizers do. torchvision also loads
the exporter to ONNX, to tell it of operators for detection, which no classifier has. timm loads the hub's client, for
downloads: a tenth of a second.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from torch._compile import _disable_dynamo

from cdtl_core.system.standins import late, stand_in, standing_in

__all__ = ["timm", "torchvision"]

_ERRORS = ("EntryNotFoundError", "RepositoryNotFoundError")


def _disable(fn: Callable[..., Any] | None = None, recursive: bool = True, **_: Any) -> Callable[..., Any]:
    """Exclude a function from compilation, as `torch.compiler.disable`: the compiler is imported when it is called."""
    return _disable_dynamo(fn, recursive)


def _of_hub(name: str) -> Callable[..., Any]:
    """Return a function of the hub's client, imported when it is called; timm gets the errors that it may raise."""

    def call(*arguments: Any, **options: Any) -> Any:
        hub, errors = importlib.import_module("huggingface_hub"), importlib.import_module("huggingface_hub.utils")
        vars(timm.models._hub).update({one: getattr(errors, one) for one in _ERRORS})
        return getattr(hub, name)(*arguments, **options)

    return call


_utils = stand_in("torch._dynamo.utils", is_compile_supported=late("torch._dynamo.utils", "is_compile_supported"))
_dynamo = stand_in("torch._dynamo", disable=_disable, utils=_utils, __path__=[])
_onnx = stand_in("torchvision.ops._register_onnx_ops", _register_custom_op=lambda: None)
_calls = {name: _of_hub(name) for name in ("HfApi", "hf_hub_download", "model_info")}
_hub = stand_in("huggingface_hub", __path__=[], **_calls)
_hub_utils = stand_in("huggingface_hub.utils", **dict.fromkeys(_ERRORS, Exception))
_client = [] if "huggingface_hub" in sys.modules else [_hub, _hub_utils]
_has_client = importlib.util.find_spec("huggingface_hub") is not None
try:
    with standing_in(_dynamo, _utils, _onnx, *_client):
        import timm
        import torchvision
except (ImportError, AttributeError):  # another version, which needs more of it
    import timm
    import torchvision
if _has_client and not timm.models._hub.has_hf_hub():  # likewise: then timm silently has no hub
    importlib.reload(timm.models._hub)
