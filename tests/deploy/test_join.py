"""A coordinator and three sites as processes on loopback, over TLS, through gateway and filters."""

import ssl
import time
from pathlib import Path

import httpx
import pytest

from cdtl_core.deploy.approval_list import approvals, withdraw
from cdtl_core.deploy.runs import load_run_state
from cdtl_core.results.spent import spent_of_site
from cdtl_core.system.foreign import read_json
from tests.deploy.conftest import Figures
from tests.deploy.deployment import MODEL
from tests.deploy.joined import ALL, Make, Tiny, expect_models_of, make, under_way

__all__ = ["make"]
pytestmark = pytest.mark.slow


@pytest.mark.ci
def test_three_sites_train_over_tls_and_end_as_the_simulation_does(
    tiny: Tiny, make: Make, tmp_path: Path, figures: Figures
) -> None:
    config = tiny(**ALL)
    began = time.monotonic()
    deployment = make(config)
    deployment.start_all()
    deployment.connected()
    run = deployment.request(config.of_method("cdtl"))
    deployment.play(run)
    deployment.approve(run)
    assert deployment.ended(run) == "completed", deployment.story()
    lines = deployment.lines(run)
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert all(not line["refused"] and not line["absent"] for line in lines[:3])
    deployment.stop()
    figures("3 sites, 3 rounds over TLS, from enrolment to the end", f"{time.monotonic() - began:.0f} s")
    figures("a round (3 sites)", f"{lines[2]['seconds']:.1f} s")
    expect_models_of(config, deployment, tmp_path / "simulated")


def test_private_sites_spend_from_their_own_ledgers_and_send_no_figure(tiny: Tiny, make: Make) -> None:
    phantoms = [site.data.phantom for site in tiny().sites]
    config = tiny(
        **{**ALL, "model": {**MODEL, "levels": [2, 3], "dropout": 0.0}}, dp={"enabled": True, "target_epsilon": 4.0}
    )
    data = [phantom.model_copy(update={"patients": 40}) for phantom in phantoms if phantom]
    sites = [
        site.model_copy(update={"data": site.data.model_copy(update={"phantom": phantom})})
        for site, phantom in zip(config.sites, data, strict=True)
    ]
    config = config.model_copy(update={"sites": tuple(sites)})
    deployment, run = under_way(make(config), config)
    deployment.in_round(run, 2)
    deployment.kill("alba")
    deployment.start("alba")
    assert deployment.ended(run) == "completed", deployment.story()
    for name, home in deployment.homes.items():
        (spent,) = spent_of_site(home)
        assert 3.0 < spent.epsilon_rdp <= 4.0, name
        assert {one.round for one in spent.runs[0].rounds} == {1, 2, 3}
        log = (home / "logs" / "egress.jsonl").read_text()
        assert '"train"' in log, log[:500]
        assert "held" not in log
    for line in deployment.lines(run):
        for said in (line.get("sites") or line["finish"]).values():
            assert set(said) <= {"bytes_received", "bytes_sent", "initial_weights_bytes", "chosen"}
    deployment.stop()


ALTERATION = (
    '\nimport os as _o\nfrom pathlib import Path as _P\n_P(_o.environ["CDTL_HOME"], "models", "executed").touch()\n'
)
SMUGGLER = """
_encode = encode_update
def encode_update(update):
    record = _encode(update)
    record.update(pack("extra", _arrays({"patients": next(iter(update.delta.values()))})))
    return record
"""


@pytest.mark.ci
def test_an_altered_bundle_is_neither_unpacked_nor_executed_and_approving_it_later_is_enough(
    tiny: Tiny, make: Make
) -> None:
    config = tiny(**ALL)
    deployment = make(config)
    marks = [home / "models" / "executed" for home in deployment.homes.values()]
    deployment.start_all()
    run = deployment.request(config.of_method("cdtl"))
    deployment.approve(run)  # the honest code
    deployment.alter(run, "client/app.py", ALTERATION)
    deployment.play(run)
    refused = dict.fromkeys(deployment.homes, "it has not approved this run")
    deployment.until(lambda: read_json(run / "progress.json").get("waiting") == refused, 120.0, "three refusals")
    assert not any(mark.exists() for mark in marks)
    scratch = {Path(read_json(home / "service.json")["scratch"]) for home in deployment.homes.values()}
    assert not [path for folder in scratch for path in folder.glob("node-*/flower/apps/*")]
    for home in deployment.homes.values():
        withdraw(home, next(iter(approvals(home))))
    deployment.approve(run)
    assert deployment.ended(run) == "completed", deployment.story()
    assert all(mark.exists() for mark in marks)
    deployment.stop()


def test_a_tensor_outside_the_egress_list_is_held_back_even_from_an_approved_bundle(tiny: Tiny, make: Make) -> None:
    config = tiny(**ALL)
    deployment = make(config)
    deployment.start_all()
    run = deployment.request(config.of_method("cdtl"))
    deployment.alter(run, "cdtl_core/federation/wire.py", SMUGGLER)
    deployment.approve(run)
    deployment.play(run)
    assert deployment.ended(run) == "failed", deployment.story()
    state = load_run_state(run)
    assert state is not None
    assert "held back" in state.reason
    log = (deployment.homes["alba"] / "logs" / "egress.jsonl").read_text()
    assert "extra" in log
    deployment.stop()


def test_an_approval_taken_back_stops_the_code_at_once_without_a_restart(tiny: Tiny, make: Make) -> None:
    config = tiny(
        model=MODEL, federation={"rounds": 40, "min_sites": 2, "round_timeout_s": 200.0, "join_timeout_s": 200.0}
    )
    deployment, run = under_way(make(config), config)
    deployment.in_round(run, 2)
    home = deployment.homes["bari"]
    withdraw(home, next(iter(approvals(home))))
    deployment.until(lambda: bool(deployment.lines(run)[-1].get("refused")), 200.0, "a refusal")
    assert deployment.lines(run)[-1]["refused"] == {"bari": "it has not approved this run"}
    deployment.stop()


def test_the_public_port_shows_nothing_but_the_fleet(tiny: Tiny, make: Make) -> None:
    """Real SuperLink behind the gateway; certificates, keys and limits are tried in test_gateway.py."""
    deployment = make(tiny(**ALL))
    deployment.start("coordinator")
    deployment.until(lambda: "sites reach" in deployment.story(), 60.0, "the coordinator")
    context = ssl.create_default_context(cafile=deployment.ca)
    with httpx.Client(base_url=f"https://localhost:{deployment.port}", verify=context, trust_env=False) as client:
        for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/fleet/register-node", "/docs"):
            assert client.post(path).status_code == 404
        assert client.get("/openapi.json").status_code == 404
        assert client.get("/health").status_code == 200
        assert client.post("/v1/fleet/pull-messages").status_code == 401
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://localhost:{deployment.port}/health", trust_env=False)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"https://localhost:{deployment.port}/health", trust_env=False)  # does not trust our authority
    reasons = " ".join(str(line.get("refused", "")) for line in deployment.access_log())
    for reason in ("unknown path", "no client certificate", "plain HTTP"):
        assert reason in reasons
    deployment.stop()
