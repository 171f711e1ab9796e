"""What a node of a cluster must have: the same code and versions as the driver, and the same folder.

Ray itself refuses a node with another version of Ray or Python. Everything else that could change a result is compared
here, before the first task and in every process that runs one.
"""

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdtl_core.config import ClusterConfig
from cdtl_core.errors import FederationError
from cdtl_core.system.plugins import KINDS, plugins
from cdtl_core.system.shipped import code_version

__all__ = ["Demand", "check_nodes", "fault_here", "last_line", "no_room", "on_node", "places_on", "removal_of"]
__all__ += ["versions"]

_PROBE_S = 120.0

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "opacus", "flwr")


@dataclass(frozen=True)
class Demand:
    """What every process that works for a study must find.

    Attributes:
        versions: Of the driver, see `versions`.
        mark: A file of the study's folder; empty: the node needs no folder.
        content: What the file holds. A folder of the same name on another disk does not hold it.
    """

    versions: Mapping[str, str]
    mark: str = ""
    content: str = ""


@functools.lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """Return the versions of all that results depend on, with a hash of cdtl's own source."""
    found = {"cdtl": f"{code_version()} (code {_source_hash()})", "Python": platform.python_version()}
    for name in _LIBRARIES:
        found[name] = importlib.metadata.version(name)
    added = {f"package {one.package}": one.version for kind in KINDS for one in plugins(kind)}
    return {**found, **added}


def fault_here(demand: Demand) -> str:
    """Return what this node lacks, as the second half of a sentence; empty if it lacks nothing."""
    here = versions()
    for name in {**demand.versions, **here}:
        wanted, found = demand.versions.get(name, "none"), here.get(name, "none")
        if wanted != found:
            how = "install the same version, or check out the same commit" if name == "cdtl" else "install the same"
            return f"has {name} {found}, and this machine {wanted}: {how} on all nodes."
    if demand.mark and _content(Path(demand.mark)) != demand.content:
        folder = Path(demand.mark).parent
        return (
            f"does not see the folder {folder} of this machine: put it on a shared disk that every node mounts under "
            "the same path, or set cluster.send_images."
        )
    return ""


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _source_hash() -> str:
    root, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def check_nodes(ray: Any, nodes: Sequence[Mapping[str, Any]], demand: Demand) -> None:
    """Ask every node what it has.

    Args:
        ray: The module.
        nodes: As Ray describes them.
        demand: What each must have.

    Raises:
        FederationError: One lacks something, or does not answer.
    """
    look = _look_of(demand)
    asked = {on_node(ray, node, look).remote(): node for node in nodes}
    ready, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_S)
    for ref in silent:
        raise FederationError(f"node {_name(asked[ref])} did not start a process within {_PROBE_S:.0f} s: remove it.")
    for ref in ready:
        try:
            fault = ray.get(ref)
        except ray.exceptions.RayError as error:
            fault = f"cannot run a task ({last_line(error)})."
        if fault:
            raise FederationError(f"node {_name(asked[ref])} {fault}")


def _look_of(demand: Demand) -> Callable[[], str]:
    """Return a function that Ray sends with its code, since a node may not have ours."""
    wanted, mark, content = dict(demand.versions), demand.mark, demand.content

    def look() -> str:
        try:
            from cdtl_core.simulation.cluster import nodes
        except ImportError as error:
            return f"cannot import cdtl ({error}): install the version of this machine on all nodes."
        return nodes.fault_here(nodes.Demand(wanted, mark, content))

    return look


def removal_of(folder: str) -> Callable[[], None]:
    """Return a function that removes a temporary folder of a node."""

    def remove() -> None:
        import shutil
        import tempfile

        shutil.rmtree(Path(tempfile.gettempdir()) / folder, ignore_errors=True)

    return remove


def on_node(ray: Any, node: Mapping[str, Any], function: Callable[..., Any]) -> Any:
    """Return a function as a task of one node, which takes none of its CPUs.

    Args:
        ray: The module.
        node: As Ray describes it.
        function: The function.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(function)


def places_on(node: Mapping[str, Any], needs: ClusterConfig) -> int:
    """Return how many tasks a node can run at a time."""
    if not node["Alive"]:
        return 0
    has = node["Resources"]
    places = int(has.get("CPU", 0) / needs.cpus)
    return min(places, int(has.get("GPU", 0) / needs.gpus)) if needs.gpus else places


def no_room(nodes: Sequence[Mapping[str, Any]], needs: ClusterConfig) -> str:
    """Return a sentence that says what the nodes have and a task needs."""
    alive = [node for node in nodes if node["Alive"]]
    has = ", ".join(
        f"{_name(node)} has {node['Resources'].get('CPU', 0):g} and {node['Resources'].get('GPU', 0):g}"
        for node in alive
    )
    return (
        f"no node of the cluster has the {needs.cpus} CPUs and {needs.gpus:g} GPUs of a task ({has or 'none is left'}):"
        " lower cluster.cpus or cluster.gpus, or add a larger node."
    )


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def last_line(error: Exception) -> str:
    """Return the last line of an error of Ray, which is the one that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")[:200]
