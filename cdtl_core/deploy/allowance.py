"""How much a site's replies may hold, and which node is the site's, from the coordinator's own files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.deploy.door import Refusal
from cdtl_core.deploy.request import ApprovalRequest, load_request
from cdtl_core.deploy.runs import load_run_state, run_folders
from cdtl_core.errors import CdtlError
from cdtl_core.federation.egress import limit_of
from cdtl_core.system.foreign import get_logger

__all__ = ["Allowance", "Books"]

_log = get_logger(__name__)
_ERROR_BYTES = 64 * 1024
_OBJECTS, _OBJECTS_PER_TENSOR, _BYTES_PER_OBJECT = 64, 4, 1024 * 1024
_RUNS_KEPT = 8
_HEAD = "head."  # prefix of `cdtl_core.federation.contract.head_name`: the size depends on the site's labels


@dataclass(frozen=True)
class Allowance:
    """Limits of one reply: bytes of all its objects, and their number."""

    num_bytes: int
    num_objects: int


class Books:
    """Reads ``FOLDER/flower/nodes.json`` and ``FOLDER/runs`` as the coordinator's service writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamp: tuple[int, int, int] | None = None
        self._nodes: dict[str, int] = {}
        self._runs: dict[int, ApprovalRequest] = {}

    def node_of(self, fingerprint: str) -> int:
        """Return the node of a site's key.

        Raises:
            Refusal: 503: the service has not registered it yet.
        """
        path = self._folder / "flower" / "nodes.json"
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                content = json.loads(path.read_text(encoding="utf-8"))
                self._nodes = {key: int(entry["node"]) for key, entry in content.items()}
                self._stamp = stamp
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._nodes, self._stamp = {}, None
        if fingerprint not in self._nodes:
            raise Refusal(503, "the site is not registered yet", retry_after=2)
        return self._nodes[fingerprint]

    def allowance(self, run_id: int, site: str, labels: Sequence[str], message_type: str) -> Allowance:
        """Return the limits of a site's reply by the egress list of the run.

        Args:
            run_id: Flower's number of the run.
            site: The site's name.
            labels: What the site predicts by its enrolment; its head has one output for each.
            message_type: Of the message that is answered.

        Raises:
            Refusal: 503: the run is about to be known; 403: it is over, or the site is not asked in it.
        """
        request = self._request(run_id)
        if request.sites and site not in request.sites:
            raise Refusal(403, "not a site of this run")
        rule = request.egress.replies.get(message_type)
        if rule is None:
            return Allowance(_ERROR_BYTES, _OBJECTS)
        tensors = {name: tensor for record in rule.arrays.values() for name, tensor in record.items()}
        heads = sum(tensor.bytes for name, tensor in tensors.items() if name.startswith(_HEAD))
        more_labels = max(len(labels) - len(request.egress.labels), 0) / max(len(request.egress.labels), 1)
        num_bytes = limit_of(request.egress, message_type) + int(heads * more_labels)
        objects = _OBJECTS + _OBJECTS_PER_TENSOR * len(tensors) + num_bytes // _BYTES_PER_OBJECT
        return Allowance(num_bytes, objects)

    def _request(self, run_id: int) -> ApprovalRequest:
        if run_id in self._runs:
            return self._runs[run_id]
        queued = False
        try:
            for run in run_folders(self._folder):
                state = load_run_state(run)
                if state is not None and state.flower_run == str(run_id):
                    self._runs = dict([*self._runs.items(), (run_id, load_request(run / "request.json"))][-_RUNS_KEPT:])
                    return self._runs[run_id]
                queued = queued or (state is not None and state.status == "queued")
        except CdtlError as error:
            _log.warning("%s", error)
        # the number of a run is written a moment after Flower has started it
        raise Refusal(503, "the run is not known yet", retry_after=2) if queued else Refusal(403, "the run is over")
