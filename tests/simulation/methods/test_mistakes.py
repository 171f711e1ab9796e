"""What the author of a method gets wrong: the sentence names the function and what it should return."""

from collections.abc import Callable
from typing import Any

import pytest

from cdtl_core.errors import CdtlError
from cdtl_core.simulation.methods import Method, advance, begin, deployed, with_offsets
from cdtl_core.simulation.methods.loop import play_in
from cdtl_core.simulation.methods.method import Federation

Build = Callable[..., Federation]
GOOD: dict[str, Any] = {"start": begin, "round": advance, "model_of": deployed}
PARTS: list[tuple[dict[str, Any], str]] = [
    ({"start": lambda _: None}, "start of the method returned None: return the state"),
    ({"round": lambda _f, _s: None}, "round of the method returned None: return the state"),
    ({"model_of": lambda *_: None}, "model_of returned NoneType for alba: return tensors by name"),
    ({"model_of": lambda *a: dict([*deployed(*a).items()][1:])}, r"for alba, without '.*': return all of them"),
    (
        {"model_of": lambda *a: {k: v * float("nan") for k, v in deployed(*a).items()}},
        "model_of returned for alba holds values that are not finite",
    ),
    ({"round": lambda f, s: with_offsets(advance(f, s), {"ultrasund": {}})}, "are missing, or of no group: give those"),
    ({"start": lambda f: begin(f.under({"methd": "fedbn"}))}, "methd in federation.under is unknown"),
]


@pytest.mark.parametrize(("wrong", "says"), PARTS)
def test_a_mistake_in_a_method_is_named(build: Build, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(CdtlError, match=says):
        play_in(build("alba", "como", federation={"rounds": 1}), Method(**{**GOOD, **wrong}))
