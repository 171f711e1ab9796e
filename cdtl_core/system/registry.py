"""Functions by name: those that cdtl ships, those that a script registers, and those of plugins."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from cdtl_core.errors import BY_SCRIPT, ConfigError, did_you_mean
from cdtl_core.system.plugins import adopt, adopt_all, guarded, kind_in_words, plugins

__all__ = ["Registry"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Registry(Generic[_Function]):
    """The functions of one kind.

    Args:
        kind: One of `plugins.KINDS`.
        takes: What such a function takes, for the error about another object.
        remedy: What to do about an unknown name; ``{known}`` stands for the names that exist.
        shipped: The functions that every installation has.
    """

    def __init__(self, kind: str, *, takes: str, remedy: str, shipped: Mapping[str, _Function]) -> None:
        self._kind, self._takes, self._remedy = kind, takes, remedy
        self.shipped, self.functions = frozenset(shipped), dict(shipped)

    def register(self, name: str, function: _Function) -> None:
        """Add a function to those of this process.

        Raises:
            ConfigError: The name is taken or malformed, or the object is no function.
        """
        what = kind_in_words(self._kind)
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,47}", name):
            raise ConfigError(f"{what} name {name!r}: use a-z, 0-9, _ and -, at most 48 characters, a letter first.")
        if name in self.functions:
            raise ConfigError(f"{what} '{name}' exists already: choose another name.")
        if not callable(function):
            raise ConfigError(f"{what} '{name}' is {function!r}: give a function of {self._takes}.")
        self.functions[name] = function

    def find(self, name: str) -> _Function:
        """Return the function called `name`.

        Raises:
            ConfigError: None has this name, or its plugin is broken.
        """
        adopt(self._kind, name, self._adopt)
        if name not in self.functions:
            known = dict.fromkeys([*self.functions, *(one.name for one in plugins(self._kind))])
            remedy = self._remedy.format(known=", ".join(known) or "one of a package; none is installed")
            what = f"the {kind_in_words(self._kind)} '{name}' is unknown"
            raise ConfigError(f"{what}{did_you_mean(name, known, remedy)}.{BY_SCRIPT}")
        return self.functions[name]

    def all(self) -> dict[str, _Function]:
        """Return all functions by name, those of plugins too, but for the broken ones (`plugins.faults`)."""
        adopt_all(self._kind, self._adopt)
        return dict(self.functions)

    def _adopt(self, name: str, function: Any) -> None:
        if not callable(function):
            raise ConfigError(f"it is not a function of {self._takes}.")
        self.register(name, guarded(self._kind, name, function))  # type: ignore[arg-type]
