"""The code that sites are asked to run: Flower's app bundle, the same bytes from the same cdtl on every machine."""

import hashlib
import tempfile
from pathlib import Path

from cdtl_core.flower import stage_app

__all__ = ["build_bundle", "bundle_sha256"]


def build_bundle(app: Path) -> bytes:
    """Stage the app in the empty folder `app` and return Flower's bundle of it.

    Built by Flower's own function, so that `flwr run` on that folder submits the same bytes.
    """
    from flwr.cli.build import build_fab_from_disk

    stage_app(app)
    return bytes(build_fab_from_disk(app))


def bundle_sha256(bundle: bytes | None = None) -> str:
    """SHA-256 of a bundle in hex; without one, of the bundle that the cdtl installed here makes."""
    if bundle is None:
        with tempfile.TemporaryDirectory(prefix="cdtl-bundle-") as folder:
            bundle = build_bundle(Path(folder) / "app")
    return hashlib.sha256(bundle).hexdigest()
