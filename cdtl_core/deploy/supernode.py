"""A site's node: Flower's SuperNode, executor and the approved code; it has no key and reaches only the filter."""

import json
import secrets
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.config.folders import APPROVED_FILE, SITE_FILE
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.link import CERTIFICATE, COPIED, NODE_FOLDERS, NODE_KEY, SOCKET, TRUSTED
from cdtl_core.deploy.sandbox import Place, enclosed, readable_folders
from cdtl_core.errors import FederationError
from cdtl_core.flower import flower_environment
from cdtl_core.system.durable import replace_bytes
from cdtl_core.system.processes import ProcessGroup, free_port

__all__ = ["NodeService", "link_state", "start_node"]

_KEPT = ("PATH", "LANG", "TZ", "CDTL_HOME")
_KEPT_FAMILIES = (
    *("LC_", "CDTL_", "FLWR_", "RAY_", "OMP_", "MKL_", "OPENBLAS_"),
    *("CUDA_", "CUBLAS_", "NVIDIA_", "TORCH", "PYTORCH_", "HSA_", "ROCR_", "HIP_"),
)
"""Variables that the approved code sees: those for computing. Proxies, tokens and all others are removed."""


@dataclass(frozen=True)
class NodeService:
    """Everything needed to start a node.

    Attributes:
        home: The site's folder.
        link: What the filter hands over.
        scratch: A folder that only its owner can enter; the node gets a folder in it.
        logs: Folder for the node's output.
        sandbox: Whether the node runs in a sandbox; else the environment separates it, or nothing does.
    """

    home: Path
    link: Path
    scratch: Path
    logs: Path
    sandbox: bool

    @property
    def log(self) -> Path:
        """The node's output; approved code prints too, so it may name files."""
        return self.logs / "training.log"


def link_state(link: Path) -> tuple[int, int] | None:
    """Return a value that changes when a new filter serves, whose node must restart; None without a filter."""
    with suppress(OSError):
        found = (link / TRUSTED).stat()  # the last file that a filter writes before it listens
        return found.st_ino, found.st_mtime_ns
    return None


def start_node(node: NodeService) -> ProcessGroup:
    """Start a SuperNode with an empty Flower folder, so that no bundle unpacked earlier is used again.

    Raises:
        FederationError: No filter has written the link.
        DataError: The manifest cannot be read.
    """
    if link_state(node.link) is None or not (node.link / SITE_FILE).exists():
        raise FederationError(f"no filter serves this node in {node.link}: start the site's filter.")
    scratch = node.scratch / f"node-{time.monotonic_ns()}"
    for old in node.scratch.glob("node-*"):
        shutil.rmtree(old, ignore_errors=True)
    (scratch / "flower").mkdir(parents=True, mode=0o700)
    replace_bytes(scratch / "secret", secrets.token_bytes(32), mode=0o600)
    place = Place(node.home, node.link, scratch)
    if node.sandbox:
        place = Place(node.home, node.link, scratch, readable_folders(node.home, load_site(node.link / SITE_FILE)))
    home = node.home if node.sandbox else _view(node.home, node.link, scratch)
    env = _environment({"FLWR_HOME": scratch / "flower", "CDTL_HOME": home, "HOME": scratch})
    command = [*_run("node_main.py"), _spec(node.link, scratch)]
    if node.sandbox:
        command = enclosed(place, command, env)
    group = ProcessGroup(env, scratch)
    try:
        group.start("node", command, node.log)
    except BaseException:
        group.kill()
        raise
    return group


def _run(name: str) -> list[str]:
    """Return the command line of a file beside this one, which the sandbox shows."""
    return [sys.executable, "-I", str(Path(__file__).with_name(name))]


def _spec(link: Path, scratch: Path) -> str:
    port, runtime = free_port(), free_port()
    secret = ["--superexec-auth-secret-file", str(scratch / "secret")]
    way = ["--superlink", f"127.0.0.1:{port}", "--root-certificates", str(link / CERTIFICATE)]
    trust = ["--auth-supernode-private-key", str(link / NODE_KEY), "--trusted-entities", str(link / TRUSTED)]
    place = ["--host", "127.0.0.1", "--port", str(runtime), "--isolation", "process"]
    executor = [*_run("node_executor.py"), "--insecure", "--runtime-api-address", f"127.0.0.1:{runtime}"]
    return json.dumps(
        {
            "socket": str(link / SOCKET),
            "port": port,
            "runtime_port": runtime,
            "supernode": [*_run("node_supernode.py"), *way, *trust, *place, *secret],
            "executor": [*executor, *secret],
        }
    )


def _environment(own: Mapping[str, object]) -> dict[str, str]:
    every = flower_environment({})
    kept = {name: value for name, value in every.items() if name in _KEPT or name.startswith(_KEPT_FAMILIES)}
    return {**kept, "TMPDIR": "/tmp", "USER": "cdtl", **{name: str(value) for name, value in own.items()}}  # noqa: S108


def _view(home: Path, link: Path, scratch: Path) -> Path:
    """Outside a sandbox: make a folder with the parts of the site's folder that the approved code uses."""
    view = scratch / home.name
    view.mkdir()
    for name in NODE_FOLDERS:
        (view / name).symlink_to(home / name)
    for name in (*COPIED, APPROVED_FILE):
        (view / name).symlink_to(link / name)
    return view
