"""First contact: pages of help, suggestions, tables and errors on a terminal of 80 columns."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import typer
from PIL import Image

from cdtl_core.cli.columns import Column, print_columns
from cdtl_core.cli.main import app
from cdtl_core.cli.screen import open_console
from cdtl_core.config.modalities import MODALITIES, SHIPPED_MODALITIES
from cdtl_core.results.report import Report
from tests.conftest import Cdtl
from tests.stub import STUB

pytestmark = pytest.mark.integration


def _pages(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    for name, part in getattr(command, "commands", {}).items():
        yield from _pages(part, (*path, name))


PAGES = list(_pages(typer.main.get_command(app)))


@pytest.mark.parametrize("command", [("site", "init"), ("data", "check"), ("try",)])
def test_the_help_of_a_modality_lists_the_modalities(cdtl: Cdtl, command: tuple[str, ...]) -> None:
    page = " ".join(cdtl(*command, "--help").out.split())
    assert f"Modality of the images: {', '.join(MODALITIES)}, or one of a package" in page
    assert set(MODALITIES) == SHIPPED_MODALITIES


def test_every_page_of_help_is_whole_at_80_columns(cdtl: Cdtl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert len(PAGES) > 40
    for path, command in PAGES:
        page = cdtl(*path, "--help")
        assert (page.code, page.err) == (0, ""), path
        assert max(map(len, page.out.splitlines())) <= 80, path
        assert "\\" not in page.out, path
        words = " ".join(page.out.split())
        assert not re.search(r"[a-z]\.\.\.( |$)", page.out.partition("\n\n")[2], re.MULTILINE), path  # behind the usage
        for name, part in getattr(command, "commands", {}).items():
            assert f"{name} {part.get_short_help_str(1000)}" in words, (*path, name)
        for param in command.params:
            told = getattr(param, "help", None)
            assert told, (*path, param.name)
            assert " ".join(told.split()) in words, (*path, param.name)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("simulte",), "simulate"),
        (("simulate", "--sett", "x"), "--set"),
        (("site", "approv"), "approve"),
        (("config", "chek"), "check"),
    ],
)
def test_a_mistyped_word_gets_one_suggestion(cdtl: Cdtl, arguments: tuple[str, ...], wanted: str) -> None:
    done = cdtl(*arguments)
    assert done.code == 2
    assert f"'{wanted}'" in done.err
    assert len(re.findall("[Dd]id you mean", done.err)) == 1


def test_a_table_that_is_too_wide_continues_in_another_and_cuts_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    sites = [f"site-with-a-long-name-{number}" for number in range(3)]
    values = [[f"{column}{row}.123 (0.{column}00-0.{row}99)" for row in range(3)] for column in range(7)]
    columns = [Column("site", sites, "left"), *(Column(f"method {index}", of) for index, of in enumerate(values))]
    print_columns(open_console(), "A study of seven methods", columns)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert all(value in out for of in values for value in of)
    assert out.count(sites[0]) > 1
    assert out.count("A study") == 1


def test_the_tables_of_a_run_and_of_a_comparison_fit_80_columns(
    cdtl: Cdtl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    small = ("--set", "federation.rounds=1", "--set", "train.steps=1", "--set", f"model.backbone={STUB}")
    run = cdtl("simulate", "tiny", "--set", "methods=fedbn,cdtl", *small)
    assert run.code == 0, run.err
    more = ("--methods", "alone,fedbn,cdtl,cdtl:shuffled", "--target", "south", "--seeds", 1, "--folds", 2, "--jobs", 1)
    compared = cdtl("compare", "tiny", *more, *small)
    assert compared.code == 0, compared.err
    for out, title in ((run.out, "tiny, seed"), (compared.out, "tiny: gain")):
        table = out[out.index(title) :].partition("Images are SYNTHETIC")[0]
        assert max(map(len, table.splitlines())) <= 80
    report = Report.model_validate_json((tmp_path / "runs" / "tiny" / "report.json").read_bytes())
    results = [one for site in report.sites for one in site.results.values()]
    for auroc in (one.auroc for one in results):
        assert f"{auroc.value:.3f}" in run.out
        assert auroc.low is None or f"{auroc.low:.2f} to {auroc.high:.2f}" in run.out
    for word in ("patients", "local", "FedBN", "CDTL - local", "sent/received"):
        assert word in run.out
    for word in ("donors", "worst receiver", "less FedBN", "less its control", "claim"):
        assert word in compared.out


@pytest.mark.parametrize("command", ["simulate", "compare"])
@pytest.mark.parametrize("fault", ["label", "class", "manifest", "positive"])
def test_an_error_about_one_of_several_sites_names_it(cdtl: Cdtl, tmp_path: Path, command: str, fault: str) -> None:
    rng, rows = np.random.default_rng(0), ["file,label,patient_id"]
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{('benign', 'malignant')[number % 2 if fault != 'class' else 0]},p{number}")
    if fault == "label":
        rows[3] = "2.png,bening,p2"
    (tmp_path / "m.csv").write_text("\n".join(rows))
    manifest = "none.csv" if fault == "manifest" else "m.csv"
    sites = [
        '[[sites]]\nsite = "north"\nmodality = "mri"\ndata.phantom = { patients = 16 }\n',
        f'[[sites]]\nsite = "extra"\nmodality = "mri"\ndata.manifest = "{manifest}"\n',
    ]
    sites[1] += 'labels = ["benign", "odd"]\n' if fault == "positive" else ""
    settings = 'name = "x"\nimage.size = 32\nmodel = { backbone = "plain_cnn", weights = "random" }\n'
    (tmp_path / "x.toml").write_text(settings + "".join(sites))
    done = cdtl(command, "x.toml")
    assert done.code in {3, 4}, done.err
    assert "site extra" in done.err
    assert "north" not in done.err
