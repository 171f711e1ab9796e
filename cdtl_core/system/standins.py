"""Stand-ins for modules that a library imports and that this process may never need.

Importing torch's compiler takes a second, and importing Opacus takes torch with it. A library that names such a module
at its top gets a stand-in for it while it is imported. What the library then keeps of it loads the real module when it
is called.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["late", "stand_in", "standing_in"]


def stand_in(name: str, **content: object) -> ModuleType:
    """Return a module of this name that holds only `content`; ``__path__`` in it makes it a package."""
    module = ModuleType(name)
    vars(module).update(content)
    return module


def late(module: str, name: str) -> Callable[..., Any]:
    """Return a function that calls the function `name` of a module, and imports the module only then."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **options)

    return call


@contextmanager
def standing_in(*modules: ModuleType) -> Iterator[None]:
    """Let imports inside the block find these modules under their names; afterwards they find the real ones again.

    A real module that is loaded already stays in use.
    """
    absent = {module.__name__: module for module in modules if module.__name__ not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
