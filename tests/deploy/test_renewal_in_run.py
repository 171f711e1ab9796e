"""Keys of a site and of the server are renewed while a run goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdtl_core.config import SimulationConfig
from cdtl_core.deploy.authority import renew_server
from cdtl_core.deploy.keys import KEY_FILE
from cdtl_core.deploy.members import renew
from cdtl_core.deploy.renewal import load_renewal
from cdtl_core.deploy.renewing import is_renewing, request_renewal
from cdtl_core.deploy.server_config import ServerConfig
from tests.deploy.deployment import MODEL, Deployment

Tiny = Callable[..., SimulationConfig]


@pytest.fixture
def deployment(tiny: Tiny, tmp_path: Path) -> Iterator[tuple[Deployment, Path]]:
    """Two sites of two modalities in the first of four rounds."""
    config = tiny(
        model=MODEL, federation={"rounds": 4, "min_sites": 2, "round_timeout_s": 300.0, "join_timeout_s": 300.0}
    )
    made = Deployment(tmp_path, [config.sites[0], config.sites[2]], config.of_method("cdtl"))
    made.start_all()
    run = made.request(config.of_method("cdtl"))
    made.approve(run)
    made.play(run)
    made.in_round(run, 1)
    yield made, run
    made.end()


@pytest.mark.slow
def test_a_site_and_the_server_renew_their_keys_while_a_run_goes_on(deployment: tuple[Deployment, Path]) -> None:
    made, run = deployment
    home = made.homes["alba"]
    before = (home / KEY_FILE).read_bytes()
    renew(made.coordinator, load_renewal(request_renewal(home), made.coordinator))
    renew_server(made.coordinator, ServerConfig(names=("localhost", "127.0.0.1")))
    made.until(lambda: not is_renewing(home), 240.0, "the new key in use")
    assert (home / KEY_FILE).read_bytes() != before
    assert made.ended(run) == "completed", made.story()
    lines = made.lines(run)
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(not line["refused"] and not line["absent"] for line in lines[:4]), lines
    assert not [
        line for line in made.access_log() if line.get("refused") and line.get("route") == "/v1/fleet/push-messages"
    ]
    assert (made.coordinator / "logs" / "gateway.log").read_text().count("certificate was renewed") == 1
    assert "new key is in use" in made.story()
    made.stop()
