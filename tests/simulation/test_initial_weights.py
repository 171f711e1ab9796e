"""The initial weights: fixed for the run, checked at the site, sent again after a loss."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cdtl_core.config import SimulationConfig
from cdtl_core.config.folders import MODEL_FILE
from cdtl_core.errors import CdtlError, CheckpointError, FederationError
from cdtl_core.models.initial_weights import build_initial_weights
from cdtl_core.models.weights import weights_hash
from cdtl_core.simulation.inprocess import InProcessGrid
from cdtl_core.simulation.simulate import resume_simulation, simulate
from cdtl_core.site.initial_weights import holds_initial_weights, load_initial_weights, save_initial_weights
from tests.conftest import Played

Tiny = Callable[..., SimulationConfig]


class _Killed(BaseException):
    """Stands for a kill."""


def interrupted(config: SimulationConfig, out: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    pull, count = InProcessGrid.pull_messages, [0]

    def dying(self: InProcessGrid, message_ids: list[str]) -> object:
        count[0] += 1
        if count[0] == at:
            raise _Killed
        return pull(self, message_ids)

    with monkeypatch.context() as patch:
        patch.setattr(InProcessGrid, "pull_messages", dying)
        with pytest.raises(_Killed):
            simulate(config, out)


def test_a_run_killed_in_its_first_round_reports_as_the_undisturbed_one(
    tiny: Tiny, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = played(tiny()).report
    interrupted(tiny(), tmp_path / "cut", monkeypatch, at=5)
    assert resume_simulation(tmp_path / "cut") == whole
    assert all(site.bytes_per_round["cdtl"].initial_weights_received > 10_000 for site in whole.sites)


def test_a_kill_while_images_are_prepared_can_be_resumed(
    tiny: Tiny, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cdtl_core.simulation.simulate as module

    whole = played(tiny()).report

    def dying(*_: object, **__: object) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "check_run", dying)
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # type: ignore[attr-defined]  # a kill cleans nothing
        with pytest.raises(_Killed):
            simulate(tiny(), tmp_path / "cut")
    assert resume_simulation(tmp_path / "cut") == whole


def test_another_initial_weights_at_resume_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, run = tmp_path / "initial_weights.safetensors", tiny().run
    save_file(build_initial_weights(run.model, 1, 32), weights)
    config = tiny(model={"weights": str(weights)})
    interrupted(config, tmp_path / "run", monkeypatch, at=8)
    save_file(build_initial_weights(run.model, 2, 32), weights)
    with pytest.raises(CheckpointError, match="other initial weights"):
        resume_simulation(tmp_path / "run")


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: content[:50]]
)
def test_a_initial_weights_damaged_on_a_sites_disk_is_never_used_and_sent_again(
    tiny: Tiny, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    whole = played(tiny()).report
    interrupted(tiny(), tmp_path / "run", monkeypatch, at=8)
    home = tmp_path / "run" / "sites" / "alba"
    path = next((home / "initial_weights").glob("*.safetensors"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CdtlError):
        load_initial_weights(home, path.stem)
    assert not holds_initial_weights(home, path.stem)
    assert resume_simulation(tmp_path / "run") == whole


def test_what_sites_hold_alike_lies_on_the_disk_once_and_damage_is_noticed_at_each(tiny: Tiny, tmp_path: Path) -> None:
    simulate(tiny(), tmp_path / "run")
    homes = sorted(path for path in (tmp_path / "run" / "sites").iterdir() if path.is_dir())
    one, *others = [next((home / "initial_weights").iterdir()) for home in homes]
    assert others
    assert all(other.samefile(one) for other in others)
    for home in homes:
        assert any((home / MODEL_FILE).samefile(path) for path in (home / "models").rglob(MODEL_FILE))
    assert all(holds_initial_weights(home, one.stem) for home in homes)
    one.write_bytes(one.read_bytes()[:-1] + b"x")
    assert not any(holds_initial_weights(home, one.stem) for home in homes)
    save_initial_weights(homes[0], build_initial_weights(tiny().run.model, tiny().run.seed, 32), one.stem)
    assert [holds_initial_weights(home, one.stem) for home in homes] == [True, *(False for _ in others)]


def test_weights_that_change_after_they_were_accepted_are_refused_and_the_accepted_ones_stay(tmp_path: Path) -> None:
    """Also by writes that torch does not count, and in memory that was used before."""
    buffer = np.arange(64, dtype=np.float32)
    received = {"w": torch.from_numpy(buffer)}
    sha256 = weights_hash(received)
    save_initial_weights(tmp_path / "alba", received, sha256)
    buffer[3] = 7
    with pytest.raises(FederationError, match="do not match"):
        save_initial_weights(tmp_path / "bari", received, sha256)
    received["w"].data[3] = 8
    with pytest.raises(FederationError, match="do not match"):
        save_initial_weights(tmp_path / "bari", received, sha256)
    del received
    for value in range(20):
        with pytest.raises(FederationError, match="do not match"):
            save_initial_weights(tmp_path / "bari", {"w": torch.full((64,), float(value))}, sha256)
    assert weights_hash(load_initial_weights(tmp_path / "alba", sha256)) == sha256
