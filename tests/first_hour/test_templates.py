"""`cdtl config new`: a file with every setting, its meaning, unit, range and default."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.checking import check_file
from cdtl_core.config.settings import load_config
from cdtl_core.config.training import setting_keys
from cdtl_core.system.shipped import bundle_root, shipped_names
from tests.conftest import Cdtl

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("kind", ["demo", "study", "site"])
def test_a_template_holds_every_setting_with_its_meaning_and_is_valid(cdtl: Cdtl, kind: str, tmp_path: Path) -> None:
    done = cdtl("config", "new", kind)
    assert (done.code, done.err) == (0, "")
    assert f"cdtl config check {kind}.toml" in done.out
    again = cdtl("config", "new", kind)
    assert (again.code, f"{kind}.toml exists" in again.err) == (3, True)
    path = tmp_path / f"{kind}.toml"
    assert check_file(path).faults == ()
    lines = path.read_text().splitlines()
    assert max(map(len, lines)) <= 110
    model = SiteConfig if kind == "site" else RunConfig
    written = [line for line in lines if re.match(r"#?\w+ = ", line)]
    every = [key.rpartition(".")[2] for key in setting_keys(model)]
    assert set(every) - {"method"} <= {line.strip("#").partition(" ")[0] for line in written}
    assert len(written) >= len(every) - 1


@pytest.mark.parametrize("kind", ["study", "site"])
def test_each_line_of_a_template_can_be_switched_on(cdtl: Cdtl, kind: str, tmp_path: Path) -> None:
    """Without its #, alone with the header of its table and what that table must hold."""
    text = cdtl("config", "new", kind, "--out", "-").out.partition("# The sites of a simulation")[0]
    model, path, tried = (SiteConfig if kind == "site" else RunConfig), tmp_path / "x.toml", 0
    for tree, key in _switched(text):
        if key == "people":  # needs keys of as many persons
            continue
        path.write_text(tree)
        found = check_file(path)
        source = [fault for fault in found.faults if "either data.manifest" not in fault]
        assert source == [], tree
        tried += 1
    assert tried > 20
    assert {key.rpartition(".")[2] for key in setting_keys(model)} >= {"people"} or kind == "study"


def _switched(text: str) -> Iterator[tuple[str, str]]:
    lines = text.splitlines()
    header = 0
    for index, line in enumerate(lines):
        if re.match(r"#?\[", line):
            header = index
        if not re.match(r"#\w+ = ", line):
            continue
        on = list(lines)
        for at in {header, index, *_required(lines, header)}:
            on[at] = on[at].removeprefix("#") if re.match(r"#[\[\w]", on[at]) else on[at]
        yield "\n".join(on), line.strip("#").partition(" ")[0]


def _required(lines: list[str], header: int) -> Iterator[int]:
    for at in range(header, len(lines)):
        if at > header and re.match(r"#?\[", lines[at]):
            return
        if lines[at].endswith("; required"):
            yield at + 1


@pytest.mark.parametrize("name", shipped_names())
def test_a_template_of_a_shipped_name_is_that_configuration(cdtl: Cdtl, name: str) -> None:
    done = cdtl("config", "new", name)
    assert (done.code, done.err) == (0, "")
    assert load_config(f"{name}.toml", ["data.root=x"]) == load_config(
        bundle_root() / "configs" / f"{name}.toml", ["data.root=x"]
    )
    assert "weight_decay = " in Path(f"{name}.toml").read_text(), "it holds every setting"


def test_an_unknown_template_is_answered_with_the_known(cdtl: Cdtl) -> None:
    done = cdtl("config", "new", "tinny")
    assert (done.code, list(Path().glob("tinny*"))) == (3, [])
    assert "the template 'tinny' is unknown: did you mean tiny? Use one of study, site, breast, demo, " in done.err
