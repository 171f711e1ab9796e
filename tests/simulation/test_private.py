"""A federation with differential privacy: messages, ledgers, its stop, and the cost of a crash."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message
from opacus.accountants import RDPAccountant

from cdtl_core.config import ModelConfig, RunConfig, SimulationConfig
from cdtl_core.config.folders import SITE_FILE
from cdtl_core.config.settings import flatten, load_site, save_toml
from cdtl_core.coordinator.app import app as server_app
from cdtl_core.errors import CdtlError, ConfigError, FederationError, PrivacyError
from cdtl_core.federation.checkpoint import load_latest
from cdtl_core.federation.egress import egress_manifest
from cdtl_core.federation.egress_check import check_outline
from cdtl_core.federation.packing import arrays_of, outline, unpacked
from cdtl_core.privacy.ledger_file import read_ledger
from cdtl_core.simulation.inprocess import InProcessGrid, run_in_process
from cdtl_core.simulation.simulate import resume_simulation, simulate
from cdtl_core.site import memory
from cdtl_core.site.app import app as client_app
from cdtl_core.site.spending import check_one_ledger
from tests.conftest import Played

Tiny = Callable[..., SimulationConfig]
DP = {"enabled": True, "target_epsilon": 4.0, "centre_steps": 2}
MODEL = {"levels": [2, 3], "adapter": 3, "dropout": 0.0}
VIT = ModelConfig(backbone="test_vit", weights="random", dropout=0.0)


@pytest.fixture
def private(tiny: Tiny) -> Tiny:
    """Three tiny sites with twice the usual patients; the last is exempt."""

    def build(
        *, exempt: bool = True, dp: dict[str, object] | None = None, patients: int = 60, **run: object
    ) -> SimulationConfig:
        config = tiny(dp={**DP, **(dp or {})}, model=MODEL, **run)
        sites = []
        for site in config.sites:
            phantom = site.data.phantom.model_copy(update={"patients": patients})  # type: ignore[union-attr]
            terms = site.privacy.model_copy(update={"exempt": exempt and site.site == "como"})
            data = site.data.model_copy(update={"phantom": phantom})
            sites.append(site.model_copy(update={"data": data, "privacy": terms}))
        return config.model_copy(update={"sites": tuple(sites)})

    return build


def ledger(out: Path, site: str, method: str = "cdtl") -> Path:
    return out / "sites" / site / "privacy" / f"tiny-{method}"


def opacus_epsilon(path: Path, delta: float = 1e-5) -> float:
    """A fresh accountant fed with every committed step, one by one."""
    accountant = RDPAccountant()  # type: ignore[no-untyped-call]
    for one in read_ledger(path).reservations:
        for _ in range(one.steps):
            accountant.step(noise_multiplier=one.noise_multiplier, sample_rate=one.sample_rate)  # type: ignore[no-untyped-call]
    return float(accountant.get_epsilon(delta=delta))  # type: ignore[no-untyped-call]


def test_a_private_site_sends_what_its_steps_updated_and_nothing_else(private: Tiny, played: Played) -> None:
    config = private()
    seen = played(config).messages
    paid = {"adapter.down.weight", "adapter.up.weight"}
    allowed = {
        "site",
        "modality",
        "label_hash",
        "num_patients",
        "holds_initial_weights",
        "contract",
        "ledger",
        "reservations",
    }
    private_nodes = {101, 102}
    for asked, reply in seen:
        kind, here = asked.metadata.message_type, asked.metadata.dst_node_id in private_nodes
        content = reply.content
        if kind == "train":
            names = set(arrays_of(content, "delta"))
            assert {name for name in names if not name.startswith("head.")} == paid
            assert {name.rpartition(".")[2] for name in names - paid} == {"weight", "bias"}
            numbers = {"round", "spent"} if here else {"round", "val_loss", "val_auroc"}  # no loss that is not finite
            assert set(content.metric_records["metrics"]) == numbers
        elif kind == "evaluate":
            wanted = {"kept"} if here else {"test_auroc", "test_auroc_low", "test_auroc_high", "chosen"}
            assert set(content.metric_records["final"]) == wanted
        else:
            assert set(content["site"]) <= allowed
            assert ("ledger" in content["site"]) == here
            assert not here or content.config_records["site"]["num_patients"] == 40  # 36 or so, rounded
        rule = egress_manifest(config.run, private=here)
        assert check_outline(rule, kind, outline(unpacked(content))) == ""
    assert len(seen) == 15


def test_the_last_block_of_a_vision_transformer_trains_with_privacy_and_its_norms_do_not_leave(
    private: Tiny, played: Played
) -> None:
    config = private(patients=24, dp={"stages": 1}, train={"steps": 1}, federation={"rounds": 1}, blend={"settle": 0})
    config = config.model_copy(update={"run": config.run.model_copy(update={"model": VIT})})
    seen = [reply for asked, reply in played(config).messages if asked.metadata.message_type == "train"]
    sent = [set(arrays_of(reply.content, "delta")) for reply in seen]
    assert len(sent) == 3  # of three sites
    assert all("backbone.blocks.5.attn.qkv.weight" in names for names in sent)
    assert not any("norm" in name for names in sent for name in names)


def test_the_ledger_says_what_opacus_says_and_the_report_says_it_too(private: Tiny, played: Played) -> None:
    config = private(methods=("alone", "cdtl"))
    out, report, _ = played(config)
    for site in report.sites:
        if site.name == "como":
            assert site.privacy == {}
            continue
        for method, spent in site.privacy.items():
            path = ledger(out, site.name, method)
            assert spent.epsilon_rdp == pytest.approx(opacus_epsilon(path), abs=1e-6)
            assert spent.epsilon_rdp <= 4.0
            assert spent.epsilon_rdp == pytest.approx(4.0, abs=0.01)
            assert spent.steps == config.run.federation.rounds * config.run.train.steps + 2
            assert spent.spent_in_round is None


class _Killed(BaseException):
    """Stands for a kill: nothing catches it, no clean-up of ours runs."""


def test_a_kill_between_reserve_and_commit_counts_and_the_stop_holds_all_the_same(
    private: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, calls = memory.keep_update, []

    def killed(*args: object) -> None:
        calls.append(1)
        if len(calls) == 3:  # in round 2, at the first site
            raise _Killed
        keep(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(memory, "keep_update", killed)
    with pytest.raises(_Killed):
        simulate(private(), tmp_path / "run")
    path = ledger(tmp_path / "run", "alba")
    after_kill = read_ledger(path)
    assert len(after_kill.reservations) == 2
    assert after_kill.epsilon(1e-5) == pytest.approx(opacus_epsilon(path), abs=1e-6)  # uncommitted steps count
    report = resume_simulation(tmp_path / "run")
    spent = {site.name: site.privacy.get("cdtl") for site in report.sites}
    assert spent["alba"] is not None
    assert spent["alba"].epsilon_rdp <= 4.0
    assert spent["alba"].spent_in_round == 3  # the repeated round used up what the last one had
    assert spent["bari"] is not None
    assert spent["bari"].spent_in_round is None
    state, _ = load_latest(tmp_path / "run" / "checkpoints" / "cdtl")
    assert state is not None
    assert state.round == 3


def test_a_round_asked_again_is_answered_with_the_same_bytes_and_costs_nothing(
    private: Tiny, played: Played, tmp_path: Path
) -> None:
    config = private()
    played(config).copied(tmp_path / "run")
    asked, answered = [pair for pair in played(config).messages if pair[0].metadata.message_type == "train"][-3]
    before = read_ledger(ledger(tmp_path / "run", "alba"))
    grid = InProcessGrid(client_app, [tmp_path / "run" / "sites" / "alba"], flatten(config.of_method("cdtl")))
    grid.push_messages([Message(asked.content, 101, "train")])
    (again,) = grid.send_and_receive([Message(asked.content, 101, "train")])
    assert arrays_of(again.content, "delta").keys() == arrays_of(answered.content, "delta").keys()
    for name, value in arrays_of(again.content, "delta").items():
        assert (value == arrays_of(answered.content, "delta")[name]).all()
    assert read_ledger(ledger(tmp_path / "run", "alba")) == before


@pytest.fixture
def homes(private: Tiny, played: Played, tmp_path: Path) -> list[Path]:
    """Folders of three private sites with one ledger each, as in a deployment."""
    found = sorted((played(private(exempt=False)).copied(tmp_path / "made") / "sites").iterdir())
    for home in found:
        own = load_site(home / SITE_FILE)
        own = own.model_copy(update={"privacy": own.privacy.model_copy(update={"ledger": "site"})})
        save_toml(home / SITE_FILE, own.model_dump(mode="json", exclude_none=True))
        shutil.rmtree(home / "privacy")
        shutil.rmtree(home / "memory")
    return found


def play(homes: list[Path], config: RunConfig, folder: Path) -> None:
    run_in_process(server_app, client_app, folder=folder, homes=homes, settings=flatten(config))


def named(private: Tiny, name: str, **dp: object) -> RunConfig:
    config = private(exempt=False, dp=dp).of_method("cdtl")
    federation = config.federation.model_copy(update={"rounds": 2, "min_sites": 3, "join_timeout_s": 5.0})
    return config.model_copy(update={"name": name, "federation": federation})


def test_a_second_run_finds_the_budget_spent_and_goes_on_receiving(
    private: Tiny, homes: list[Path], tmp_path: Path
) -> None:
    play(homes, named(private, "first"), tmp_path / "server")
    once = [read_ledger(home / "privacy") for home in homes]
    play(homes, named(private, "second"), tmp_path / "server2")
    assert [read_ledger(home / "privacy") for home in homes] == once
    assert '"spent": ["alba", "bari", "como"]' in (tmp_path / "server2" / "rounds.jsonl").read_text()
    assert all((home / "models" / "second-cdtl" / "model.safetensors").exists() for home in homes)
    play(homes, named(private, "third", target_epsilon=6.0), tmp_path / "server3")
    for home in homes:
        assert 4.0 < read_ledger(home / "privacy").epsilon(1e-5) <= 6.0


def test_a_known_site_without_its_ledger_is_refused(
    private: Tiny, homes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, kept, early = tmp_path / "runs", homes[0] / "privacy", tmp_path / "early"
    monkeypatch.setenv("CDTL_RUNS", str(runs))  # as a coordinator's: its runs are neighbours
    play(homes, named(private, "first"), runs / "first")
    shutil.copytree(kept, early)
    shutil.rmtree(kept)
    with pytest.raises(FederationError, match="node 101: PrivacyError"):  # its own memory of the run knows better
        play(homes, named(private, "first"), runs / "again")
    with pytest.raises(FederationError, match="alba came back with another privacy ledger"):
        play(homes, named(private, "second"), runs / "second")
    shutil.rmtree(kept)
    shutil.copytree(early, kept)
    for name in ("third", "fourth"):
        play(homes, named(private, name, target_epsilon=6.0), runs / name)
    shutil.rmtree(kept)
    shutil.copytree(early, kept)
    with pytest.raises(FederationError, match="an earlier copy of its privacy ledger"):
        play(homes, named(private, "fifth", target_epsilon=7.0), runs / "fifth")


def test_a_damaged_ledger_is_refused_at_the_site(private: Tiny, homes: list[Path], tmp_path: Path) -> None:
    play(homes, named(private, "first"), tmp_path / "server")
    path = homes[1] / "privacy" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"steps": ', b'"steps":  ', 1))
    with pytest.raises(FederationError, match="node 102: PrivacyError"):
        play(homes, named(private, "second", target_epsilon=6.0), tmp_path / "server")


def test_a_hospital_cannot_count_each_run_for_itself(homes: list[Path]) -> None:
    own = load_site(homes[0] / SITE_FILE)
    check_one_ledger(own)
    with pytest.raises(ConfigError, match=r"privacy\.ledger"):
        check_one_ledger(own.model_copy(update={"privacy": own.privacy.model_copy(update={"ledger": "run"})}))


def test_a_run_that_requires_privacy_takes_no_exempt_site(private: Tiny, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"dp\.required"):
        simulate(private(dp={"required": True}), tmp_path / "run")


@pytest.mark.parametrize(
    ("dp", "what"),
    [
        ({"target_delta": 0.05}, "target_delta"),
        ({"stages": 99}, r"dp\.stages"),
    ],
)
def test_terms_that_promise_nothing_are_refused_before_anything_is_trained(
    private: Tiny, tmp_path: Path, dp: dict[str, object], what: str
) -> None:
    with pytest.raises(CdtlError, match=what):
        simulate(private(dp=dp), tmp_path / "run")
    assert not (tmp_path / "run").exists()
