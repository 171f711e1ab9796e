"""Examples for users: the quickstart, the notebook and the example of each guide, each in a separate process."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cdtl_core.system.plugins import KINDS
from cdtl_core.system.shipped import bundle_root

ROOT = bundle_root()
pytestmark = pytest.mark.integration
GUIDES = sorted(page for page in (ROOT / "docs" / "guides").glob("*.md") if page.stem != "pacs")  # it has no Python
PRINTS = {
    "index": "Usage",
    "modality": "north oct ",
    "backbone": "small_net 10500 weights",
    "method": "alone ",
    "metric": "north alone ",
    "loss": "north focal 0.",
    "transform": "north speckle ",
    "labels": "oslo ('benign', 'malignant') ",
    "exams": "slices, malignant 0.",
}
"""Output of the example of each guide."""
PACKAGE = "package.md"
PLAYED = """
config = cdtl.load_config("tiny", ["federation.rounds=1"])
methods = ("alone", "fedbn", "fedavgm_0", "fedbn_smoothed", "plain_mean")
cdtl.register_method("fedavgm_0", fedavgm(0.0))
study = cdtl.study_of(config, methods=methods, targets=["south"], seeds=1, folds=2)
results = cdtl.compare(config, study, "runs/more", jobs=1).points[0].results
assert results["fedavgm_0"] == results["fedbn"].model_copy(update={"minus": results["fedavgm_0"].minus})
assert results["fedbn_smoothed"].log_loss != results["fedbn"].log_loss
assert results["plain_mean"].log_loss != results["fedbn"].log_loss
"""
"""Without momentum the guide's method is FedBN, bit for bit; with smoothed labels or equal weights it is not."""


def run(code: str, folder: Path, *arguments: str) -> str:
    script = folder / "example.py"
    script.write_text(code)
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", script, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return done.stdout


def small(code: str) -> str:
    """Return the example with less of everything, and a tiny network, as fits a test."""
    code = re.sub(r'(patients"?[:=] ?)\d+', r"\g<1>16", code).replace('"train": 10', '"train": 5')
    code = re.sub(r'"model": \{[^}]*\}', '"model": {"backbone": "test_efficientnet", "weights": "random"}', code)
    code = re.sub(r'"train": \{"freeze"[^}]*\}', '"train": {"steps": 2, "batch_size": 4}', code)
    return re.sub(r'(size"?[:=] ?)64', r"\g<1>32", code.replace('"rounds": 3', '"rounds": 1'))


@pytest.mark.slow
@pytest.mark.ci
def test_the_quickstart_prints_what_each_site_gains_and_a_prediction(tmp_path: Path) -> None:
    code = (ROOT / "examples" / "quickstart.py").read_text()
    assert len([node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt)]) <= 30
    *gains, prediction = run(small(code), tmp_path, "out").splitlines()
    assert [re.sub(r"[+-]\d+\.\d", "+0.0", line) for line in gains] == [
        f"{site}: +0.0 AUROC points over local training"
        for site in ("north (ultrasound)", "south (mammography)", "west (mri)")
    ]
    assert re.fullmatch(r"the (pool|own) model of south: malignant with \w+ probability 0\.\d\d", prediction)


@pytest.mark.slow
@pytest.mark.ci
def test_the_notebook_is_plain_and_its_cells_run_in_order(tmp_path: Path) -> None:
    book = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert (book["nbformat"], len(cells) > 3) == (4, True)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells), "clear the outputs"
    out = run(small("\n".join("".join(cell["source"]) for cell in cells)), tmp_path)
    assert "AUROC" in out
    assert "probability" in out


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("page", [page for page in GUIDES if page.name != PACKAGE], ids=lambda page: page.stem)
def test_the_example_of_a_guide_runs_as_it_stands(page: Path, tmp_path: Path) -> None:
    first = blocks(page)[0]
    arguments = ("data", "check", "--help") if page.stem == "index" else ()
    assert PRINTS[page.stem] in run(first, tmp_path, *arguments)


@pytest.mark.slow
@pytest.mark.ci
def test_the_comparison_in_the_index_runs_as_it_stands(tmp_path: Path) -> None:
    (comparison,) = (code for code in blocks(ROOT / "docs" / "guides" / "index.md") if "study_of" in code)
    told = run(comparison, tmp_path).splitlines()
    assert [line.rpartition(" ")[0] for line in told] == ["south alone AUROC", "south fedbn AUROC"]
    assert (tmp_path / "runs" / "study" / "compare.json").is_file()


@pytest.mark.slow
@pytest.mark.ci
def test_the_methods_of_the_guide_are_what_it_says(tmp_path: Path) -> None:
    first, loss = blocks(ROOT / "docs" / "guides" / "method.md")
    run(first.partition("if __name__")[0] + loss + PLAYED, tmp_path)


def test_every_kind_that_can_be_registered_has_a_guide() -> None:
    assert {page.stem for page in GUIDES} == {*PRINTS, Path(PACKAGE).stem}
    index = (ROOT / "docs" / "guides" / "index.md").read_text()
    assert all(f"({page.name})" in index for page in GUIDES if page.stem != "index")


@pytest.mark.slow
@pytest.mark.ci
def test_the_package_of_the_guide_brings_what_it_says(tmp_path: Path) -> None:
    """Its files as pip would leave them, then the guide's own commands."""
    text = (ROOT / "docs" / "guides" / PACKAGE).read_text()
    (project,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    groups = tomllib.loads(project)["project"]["entry-points"]
    (tmp_path / "my_plugin").mkdir()
    (tmp_path / "my_plugin" / "__init__.py").write_text(blocks(ROOT / "docs" / "guides" / PACKAGE)[0])
    meta = tmp_path / "my_plugin-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    points = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items()) for group, named in groups.items()]
    (meta / "entry_points.txt").write_text("".join(points))
    listed = re.findall(r"^cdtl (.*?) *(?:#.*)?$", text, re.MULTILINE)
    assert len(listed) == 3
    code = "import sys\nfrom cdtl_core.cli.main import main\nmain()\n"
    for command in listed:
        out = run(code, tmp_path, *shlex.split(command), *(["--jobs", "1"] if "compare" in command else []))
        assert "smoothed" in out or "fedbn_median" in out or "SYNTHETIC" in out
    assert {group.removeprefix("cdtl.") for group in groups} == set(KINDS)
    out = run(code, tmp_path, "config", "list")
    assert out.count("[my-plugin 1.0]") == 6
