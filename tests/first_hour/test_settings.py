"""Settings one can find: templates, checks, lists and sentences, as a new user types the commands."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cdtl_core.config import RunConfig, SimulationConfig, SiteConfig
from cdtl_core.config.forms import FORMS
from cdtl_core.config.reference import meanings_of, reference_page, table_of_settings
from cdtl_core.config.settings import load_config, load_site
from cdtl_core.config.training import setting_keys, table_of
from cdtl_core.system.shipped import bundle_root
from tests.conftest import Cdtl
from tests.stub import phantom_sites

pytestmark = pytest.mark.integration
SITES = phantom_sites(16, north="ultrasound", south="mri")
OF_PYDANTIC = re.compile(
    r"Input should|String should|should be|should match|pattern '|validation error|\^\[", re.IGNORECASE
)


def test_a_file_is_checked_with_all_its_faults_at_once(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        'name = "study"\nlr = 0.1\n[train]\nsteps = "many"\n[blend]\npolicy = "sizes"\n'
    )
    done = cdtl("config", "check", "study.toml")
    assert (done.code, done.out) == (3, "")
    assert sorted(done.err.splitlines()) == [
        "Error: blend.policy in study.toml must be size, fixed, retention, annealed or scarce, got 'sizes'.",
        "Error: lr in study.toml is unknown, got 0.1: did you mean train.lr or dp.lr?",
        "Error: train.steps in study.toml must be a whole number, got 'many'.",
    ]
    done = cdtl("simulate", "study.toml")
    assert done.err.endswith("(3 more: cdtl config check study.toml).\n")  # the sites too


def test_what_a_file_needs_and_is_not_here_is_named(cdtl: Cdtl, tmp_path: Path) -> None:
    text = 'model = { backbone = "resnet0", weights = "w.safetensors" }\n[[sites]]\nsite = "north"\nmodality = "mri"\n'
    (tmp_path / "study.toml").write_text(text + 'data.manifest = "m.csv"\n')
    done = cdtl("config", "check", "study.toml")
    assert done.code == 3
    assert "site north: the manifest m.csv does not exist" in done.err
    assert "the backbone 'resnet0' is unknown" in done.err
    assert "model.weights w.safetensors does not exist" in done.err
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "m.csv").touch()
    fixed = ("data.root=images", "model.backbone=plain_cnn", "model.weights=random")
    done = cdtl("config", "check", "study.toml", *(part for one in fixed for part in ("--set", one)))
    assert (done.code, done.err) == (0, "")
    assert "study.toml holds a simulation of 1 site. No errors." in done.out


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("lr=0.1", "lr in --set is unknown, got 0.1: did you mean train.lr or dp.lr?"),
        ("optim.lr=0.01", "optim.lr in --set is unknown, got 0.01: did you mean train.lr or dp.lr?"),
        ("train.learning_rate=0.01", "train.learning_rate in --set is unknown, got 0.01: did you mean train.lr or"),
        ("optimizer.learning-rate=0.01", "did you mean train.lr or dp.lr?"),
        ("train.epochs=3", "did you mean federation.rounds or train.steps?"),
        ("batch=3", "did you mean train.batch_size?"),
        ("train.seed=3", "did you mean seed or "),
        ("random_state=3", "did you mean seed?"),
        ("model.network=unet", "did you mean model.backbone?"),
        ("algorithm=cdtl", "did you mean methods?"),
        ("clients=3", "did you mean [[sites]]?"),
        ("wubble.x=3", "wubble in --set is unknown, got {'x': 3}; remove it."),
        ("model.lr=0.1", "did you mean train.lr or dp.lr?"),
        ("trian.lr=0.1", "did you mean train?"),
        ("augment.flip=0", "did you mean train.augment?"),
        ("manifest=x", "did you mean data.manifest under [[sites]]?"),
        ("sites.north.manifest=x", "did you mean sites.north.data.manifest?"),
        ("sites.north.lr=1", "did you mean train.lr or dp.lr?"),
        ("sites.south.site=Süd", "sites.Süd.site in study.toml must be a name of a-z, 0-9, - and _ (at most 48"),
        ("name=My study", "name in --set must be a name of a-z, 0-9, - and _"),
        ("model.backbone=a/b", "must be a name of letters, digits, _, . and -"),
        ("sites.north.device=gpu", "sites.north.device in --set must be auto, cpu, mps, cuda, cuda:0"),
        ("train.steps=1.5", "train.steps in --set must be a whole number, got 1.5."),
        ("train.lr=-1", "train.lr in --set must be above 0, got -1."),
        ("federation.rounds=10000", "must be 9999 or less"),
        ("share.head=maybe", "must be true or false"),
        ("methods=magic", "must be alone, fedbn or cdtl, got 'magic'."),
        ("sites.north.data.frame=lost", "must be first, middle or last or a whole number, got 'lost'."),
        ("sites.south.modality=ultrasonic", "modality 'ultrasonic' is unknown: did you mean ultrasound? Use one of"),
        ("sites.south.modality=xrays", "sites.south.modality in --set: modality 'xrays' is unknown: did you mean xray"),
        ('sites.south.labels=["a"]', "sites.south.labels in --set must have 2 or more entries"),
        ("sites.south.data.where={a=1}", "sites.south.data.where.a in --set must be text or a list"),
        ("sites.south.data.box={}", "sites.south.data.box.column is missing in --set"),
    ],
)
def test_a_wrong_setting_is_said_in_words_that_help(cdtl: Cdtl, tmp_path: Path, override: str, says: str) -> None:
    (tmp_path / "study.toml").write_text('name = "study"\n' + SITES)
    done = cdtl("simulate", "study.toml", "--set", override)
    assert (done.code, done.out) == (3, "")
    assert says in done.err
    assert not OF_PYDANTIC.search(done.err)
    assert done.err.count("\n") == 1


def test_a_list_of_sites_under_another_name_is_recognised(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('name = "study"\n' + SITES.replace("[[sites]]", "[[site]]"))
    for command in (("simulate", "study.toml"), ("config", "check", "study.toml")):
        done = cdtl(*command)
        assert (done.code, done.err) == (3, "Error: [[site]] in study.toml is unknown: did you mean [[sites]]?\n")


def test_only_what_the_file_holds_is_said_to_be_in_it(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('name = "study"\noptim = { lr = 0.1, momentum = 0.9, x = 1 }\n' + SITES)
    done = cdtl("config", "check", "study.toml", "--set", "optim.lr=1")
    assert done.err.splitlines() == [
        "Error: optim.lr in --set is unknown, got 1: did you mean train.lr or dp.lr?",
        "Error: optim.momentum in study.toml is unknown, got 0.9: did you mean dp.momentum?",
        "Error: optim.x in study.toml is unknown, got 1; remove it.",
    ]
    done = cdtl("simulate", "tiny", "--set", "learning_rate=1", "--set", "epochs=1")
    assert done.err == "Error: learning_rate in --set is unknown, got 1: did you mean train.lr or dp.lr?\n"


def test_a_name_much_like_a_known_one_is_answered_with_it(cdtl: Cdtl) -> None:
    for command, says in (
        (("simulate", "tinny"), "the configuration tinny does not exist: did you mean tiny? Use a .toml file or a"),
        (("simulate", "tiny", "--set", "model.backbone=u2net"), "the backbone 'u2net' is unknown: did you mean unet?"),
        (("simulate", "tiny", "--set", "model.backbone=resnet-18"), "did you mean resnet18? Use efficientnet_lite0, "),
        (("compare", "tiny", "--methods", "alone,fedprx"), "the method 'fedprx' is unknown: did you mean fedprox?"),
        (("data", "check", ".", "--modality", "ultrasonic"), "did you mean ultrasound? Use one of"),
    ):
        done = cdtl(*command)
        assert done.code in {3, 5}
        assert says in done.err


def test_no_value_of_any_setting_brings_a_sentence_of_pydantic() -> None:
    """Every setting with values of every kind."""
    base = {"site": "north", "modality": "mri", "data": {"phantom": {"patients": 16}}}
    seen = 0
    for kind, start in ((RunConfig, {}), (SiteConfig, base)):
        for key in setting_keys(kind, tables=True):
            for value in (-1, 1e99, 0.5, "", "x y\u00e9", True, [], {}, [[]], {"a b": [1]}, None, "a" * 5000):
                fault = _refused(kind, start, key, value)
                seen += bool(fault)
                assert not OF_PYDANTIC.search(fault), (key, value, fault)
                assert fault.count("\n") == 0
    assert seen > 300


def _refused(kind: type[BaseModel], start: dict[str, Any], key: str, value: Any) -> str:
    from cdtl_core.config.validation import validated
    from cdtl_core.errors import ConfigError

    *path, last = key.split(".")
    tree: dict[str, Any] = {**start, **{name: dict(part) for name, part in start.items() if isinstance(part, dict)}}
    node = tree
    for part in path:
        node = node.setdefault(part, {})
    node[last] = value
    try:
        validated(kind, tree, "x.toml")
    except ConfigError as error:
        return str(error)
    return ""


def test_every_setting_has_a_meaning_and_every_pattern_words() -> None:
    def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield kind
        for field in kind.model_fields.values():
            if (part := table_of(field.annotation)) is not None:
                yield from models(part)

    for kind in models(SimulationConfig):
        meanings = meanings_of(kind)
        for name, field in kind.model_fields.items():
            told = meanings.get(name, "") if table_of(field.annotation) is None else "table"
            assert told, f"{kind.__name__}.{name}"
            assert name.endswith("_s") <= ("second" in told)
            assert name.endswith("_px") <= ("pixel" in told)
            assert name.endswith("_mb") <= ("megabyte" in told)
    patterns = re.findall(r'"pattern": "([^"]*)"', str(SimulationConfig.model_json_schema()).replace("'", '"'))
    assert {one.replace("\\\\", "\\") for one in patterns} <= set(FORMS)


def test_the_reference_page_is_current_and_names_every_setting(cdtl: Cdtl) -> None:
    page = (bundle_root() / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert page == reference_page(), "cdtl config reference > docs/reference/settings.md"
    assert cdtl("config", "reference").out == page
    tables = {table.name: table for table in table_of_settings(SimulationConfig).walk()}
    assert {"sites.data.box", "run.train.augment", "paper.rows"} <= tables.keys()
    assert "| `lr` | `0.0005` | number, above 0 |" in page


def test_names_that_a_setting_can_have_are_listed(cdtl: Cdtl) -> None:
    done = cdtl("config", "list")
    assert (done.code, done.err) == (0, "")
    for word in ("Backbones:", "efficientnet_lite0", "fedprox", "ultrasound", "scarce", "log_loss", "demo"):
        assert word in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    found = cdtl("config", "list", "backbones", "--match", "resnet1*")
    assert "resnet18" in found.out
    assert "unet" not in found.out


def test_paths_in_a_file_are_relative_to_it_and_those_typed_to_the_working_folder(tmp_path: Path, cdtl: Cdtl) -> None:
    (tmp_path / "deep").mkdir()
    site = '[[sites]]\nsite = "{}"\nmodality = "mri"\ndata = {{ {}manifest = "m.csv" }}\n'
    text = 'model.weights = "w.safetensors"\n' + site.format("north", 'root = "images", ') + site.format("south", "")
    (tmp_path / "deep" / "study.toml").write_text(text)
    config = load_config("deep/study.toml")
    assert [own.data.root for own in config.sites] == [Path("deep/images"), Path("deep")]
    assert config.run.model.weights == "deep/w.safetensors"
    typed = load_config("deep/study.toml", ["data.root=here", "model.weights=mine.safetensors"])
    assert [own.data.root for own in typed.sites] == [Path("deep/images"), Path("here")]
    assert typed.run.model.weights == "mine.safetensors"
    shared = 'data.root = "all"\n' + text
    (tmp_path / "deep" / "study.toml").write_text(shared)
    assert load_config("deep/study.toml").sites[1].data.root == Path("deep/all")
    done = cdtl("simulate", "deep/study.toml")
    assert "deep/w.safetensors" in done.err
    (tmp_path / "deep" / "site.toml").write_text('site = "north"\nmodality = "mri"\ndata.manifest = "m.csv"\n')
    assert load_site(Path("deep/site.toml")).data.root == Path("deep")
    assert {own.data.root for own in load_config("breast").sites} == {Path()}, "a shipped file has no folder of images"


def test_the_copy_of_a_site_file_for_the_node_keeps_its_images(tmp_path: Path) -> None:
    from cdtl_core.deploy.link import Link

    home, link = tmp_path / "north", tmp_path / "link"
    home.mkdir()
    link.mkdir()
    (home / "site.toml").write_text('site = "north"\nmodality = "mri"\ndata = { root = "own", manifest = "m.csv" }\n')
    Link(link).copy_from(home)
    assert load_site(link / "site.toml").data.root == home / "own"
    before = tomllib.loads((home / "site.toml").read_text())
    (home / "site.toml").write_text("# mine\n" + (home / "site.toml").read_text().replace("own", str(tmp_path)))
    Link(link).copy_from(home)
    assert (link / "site.toml").read_bytes() == (home / "site.toml").read_bytes()
    assert before["data"]["root"] == "own"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("federation.min_per_modality=2", "federation.min_per_modality is 2 and the run has 1 with mammography: lower"),
        ("federation.min_sites=3", "federation.min_sites is 3 and the run has 2 sites: lower"),
        ('federation={sites=["north"], min_per_modality=2}', "min_per_modality is 2 and sites names 1, so no round"),
    ],
)
def test_a_simulation_that_could_never_start_is_an_error(cdtl: Cdtl, changed: str, says: str) -> None:
    done = cdtl("config", "check", "tiny", "--set", changed)
    assert (done.code, says in done.err) == (3, True), done.err
    assert cdtl("config", "check", "tiny", "--set", "federation.min_per_modality=1").code == 0


def test_an_unknown_setting_hides_no_fault_between_settings(cdtl: Cdtl, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('stepz = 3\n[federation]\nsites = ["a", "b", "c"]\nmin_sites = 4\nround = 2\n')
    done = cdtl("config", "check", "study.toml")
    assert done.code == 3
    assert "stepz in study.toml is unknown" in done.err
    assert "federation.round in study.toml is unknown" in done.err
    assert "federation in study.toml: min_sites is 4 and sites names 3" in done.err
