"""The hub's client is imported when timm downloads, and timm then knows its errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

CLIENT = """
from huggingface_hub.utils import EntryNotFoundError

class HfApi:
    def __init__(self, **options): pass

def model_info(**options): raise NotImplementedError

def hf_hub_download(repo_id, filename, **options):
    if filename.endswith(".safetensors"):
        raise EntryNotFoundError(filename)
    return filename
"""
ERRORS = """
class EntryNotFoundError(Exception): pass
class RepositoryNotFoundError(Exception): pass
"""
DOWNLOAD = """
import json, sys
from cdtl_core.models.libraries import timm
from timm.models import _hub
before = "huggingface_hub" in sys.modules
_hub._torch_load = lambda file, **_: file
found = _hub.load_state_dict_from_hf("a/network")
print(json.dumps([before, _hub.has_hf_hub(), found, "huggingface_hub" in sys.modules]))
"""
ANOTHER_VERSION = """
from cdtl_core.system import standins
plain = standins.stand_in
standins.stand_in = lambda name, **content: plain(name, **{k: v for k, v in content.items() if k != "hf_hub_download"})
"""


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A folder with a client whose hub has no .safetensors file."""
    package = tmp_path / "huggingface_hub"
    package.mkdir()
    (package / "__init__.py").write_text(CLIENT)
    (package / "utils.py").write_text(ERRORS)
    return tmp_path


def said(client: Path, code: str) -> object:
    lines = f"import sys; sys.path.insert(0, {str(client)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_download_imports_the_client_and_timm_recognises_its_errors(client: Path) -> None:
    assert said(client, DOWNLOAD) == [False, True, "pytorch_model.bin", True]


def test_a_timm_that_needs_more_of_the_client_gets_the_client(client: Path) -> None:
    """timm would silently go on without a hub."""
    assert said(client, ANOTHER_VERSION + DOWNLOAD) == [True, True, "pytorch_model.bin", True]


def test_a_client_that_is_loaded_already_stays_in_use_and_nothing_is_printed() -> None:
    code = "import huggingface_hub; from cdtl_core.models.libraries import timm; print(timm.models._hub.has_hf_hub())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
