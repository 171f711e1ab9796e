"""Runs as the filter fetched them, and the decision over each; the SuperNode gets exactly what was judged."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.common.serde import user_config_from_proto
from flwr.proto.fab_pb2 import GetFabRequest, GetFabResponse
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from flwr.supercore.constant import TaskType
from pydantic import ValidationError

from cdtl_core.config.schema import FLAT, Flat, first_fault
from cdtl_core.config.settings import load_site
from cdtl_core.deploy.approvals import Verdict, decide
from cdtl_core.deploy.egress_filter.seal import Seal
from cdtl_core.deploy.egress_filter.upstream import Answer, Upstream
from cdtl_core.deploy.link import Link
from cdtl_core.deploy.pending import MAX_BUNDLE, keep_pending
from cdtl_core.errors import CdtlError
from cdtl_core.system.foreign import get_logger

__all__ = ["KnownRun", "Runs"]

_KEPT = 4
_MOST_SETTINGS = 256 * 1024
_log = get_logger("cdtl.filter")


@dataclass(frozen=True)
class KnownRun:
    """A run with its settings and its code, exactly as the coordinator sent them to this filter."""

    run_id: int
    run: bytes
    bundle: bytes
    sha256: str
    settings: Flat
    fault: str

    @property
    def name(self) -> str:
        """Name of the run's federation, for logs."""
        return str(self.settings.get("name", ""))[:48]

    @property
    def key(self) -> str:
        """Name and method, the key of the run in the site's privacy ledger."""
        return f"{self.settings.get('name')}-{self.settings.get('method')}"


class Runs:
    """The latest few runs; each is judged at every access, since an approval can be withdrawn."""

    def __init__(self, home: Path, settings: Path, upstream: Upstream, seal: Seal, link: Link) -> None:
        self._home, self._settings, self._upstream, self._seal, self._link = home, settings, upstream, seal, link
        self._known: dict[int, KnownRun] = {}

    async def fetch(self, run_id: int, node: Any) -> KnownRun | Answer:
        """Return the run, fetched from the coordinator once; or the coordinator's answer if it is not 200."""
        if run_id in self._known:
            return self._known[run_id]
        request = GetRunRequest(node=node, run_id=run_id).SerializeToString()
        told = await self._upstream.send("get-run", request)
        if told.status != 200:
            return told
        run = GetRunResponse.FromString(told.content).run
        request = GetFabRequest(node=node, hash_str=run.fab_hash, run_id=run_id).SerializeToString()
        fetched = await self._upstream.send("get-fab", request)
        if fetched.status != 200:
            return fetched
        known = _known(run_id, run, told.content, GetFabResponse.FromString(fetched.content).fab)
        self._known = dict([*self._known.items(), (run_id, known)][-_KEPT:])
        return known

    def get(self, run_id: int) -> KnownRun | None:
        """Return the run, if this filter knows it."""
        return self._known.get(run_id)

    def verdict(self, known: KnownRun) -> Verdict:
        """Return the site's decision by its current list and locks; a refused run is kept as pending."""
        verdict = self._decide(known)
        if verdict.approved is None:
            _log.warning("run %d with bundle %s is refused: %s", known.run_id, known.sha256[:12], verdict.reason)
            if not known.fault:
                self._remember(known, verdict.reason)
        return verdict

    def is_private(self, known: KnownRun) -> bool:
        """Whether this site trains with differential privacy in the run; then its ledger must hold each update."""
        return bool(known.settings.get("dp.enabled")) and not load_site(self._settings).privacy.exempt

    def sealed_bundle(self, known: KnownRun) -> bytes:
        """Return the answer to ``get-fab``: the bundle with the filter's signature, or nothing if it is refused."""
        answer = GetFabResponse()
        answer.fab.hash_str = known.sha256
        if self.verdict(known).approved:
            answer.fab.content = known.bundle
            answer.fab.verifications.update(self._seal.verifications(known.bundle))
            self._link.approved(known.settings, known.sha256)
        sealed: bytes = answer.SerializeToString()
        return sealed

    def _decide(self, known: KnownRun) -> Verdict:
        if known.fault:
            return Verdict(None, known.fault)
        try:
            site = load_site(self._settings)
        except CdtlError as error:
            return Verdict(None, f"the site's own settings cannot be read, so nothing is approved: {error}")
        return decide(self._home, known.sha256, known.settings, site)

    def _remember(self, known: KnownRun, reason: str) -> None:
        try:
            keep_pending(self._home, known.bundle, known.settings, run_id=known.run_id, reason=reason)
        except CdtlError as error:
            _log.error("the refused run %d cannot be kept for the operator: %s", known.run_id, error)


def _known(run_id: int, run: Any, told: bytes, fab: Any) -> KnownRun:
    sha256, fault = hashlib.sha256(fab.content).hexdigest(), ""
    if len(told) > _MOST_SETTINGS or len(fab.content) > MAX_BUNDLE:
        fault = f"its bundle has {len(fab.content)} bytes and its settings {len(told)}: more than a run of cdtl has."
    elif run.primary_task_type != TaskType.SERVER_APP:
        fault = f"a run of type {run.primary_task_type!r} is not for hospitals: only server apps are."
    elif not sha256 == run.fab_hash == fab.hash_str:
        fault = "the bundle's bytes do not match the coordinator's hash: they were altered in transfer."
    elif run.run_id != run_id:
        fault = "the coordinator answered with another run than the requested one."
    try:
        settings = FLAT.validate_python(dict(user_config_from_proto(run.override_config)))
    except ValidationError as error:
        settings, fault = {}, f"the run's settings are not valid for cdtl in {first_fault(error)}."
    return KnownRun(run_id, told, bytes(fab.content), sha256, settings, fault)
