"""The end of a run at a site that holds the model of an earlier one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.errors import CdtlError
from cdtl_core.federation import finish
from cdtl_core.inference.model_folder import Which, load_model
from cdtl_core.models.weights import weights_hash
from cdtl_core.simulation.simulate import simulate
from cdtl_core.site import session
from tests.conftest import Played


@pytest.mark.parametrize("method", ["cdtl", "fedbn"])
def test_an_end_that_fails_leaves_the_earlier_model_whole(
    tiny: Callable[..., SimulationConfig],
    played: Played,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    before = played(tiny(methods=(method,))).out / "sites"
    sites, plain = tmp_path / "run" / "sites", finish.candidate
    parts: tuple[Which, ...] = get_args(Which) if method == "cdtl" else ("used",)

    def candidate(site: Any, *rest: Any) -> Any:
        shutil.copytree(before / site.name / "models", sites / site.name / "models", dirs_exist_ok=True)
        return plain(site, *rest)

    def failing(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(session, "candidate", candidate)
    monkeypatch.setattr(session, "finish", failing)
    monkeypatch.setattr(session, "finish_one", failing)
    with pytest.raises(CdtlError):
        simulate(tiny(methods=(method,), seed=1), tmp_path / "run")
    for home in before.iterdir():
        if (home / "models").exists():
            for part in parts:
                folders = (at / home.name / "models" / f"tiny-{method}" for at in (before, sites))
                kept, now = (weights_hash(load_model(folder, part)[0].state_dict()) for folder in folders)
                assert kept == now
