"""The code that sites run, as Flower's app bundle; the same version of cdtl gives the same bytes on every machine."""

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
    """Return the SHA-256 of a bundle in hex; without an argument, of the bundle of the installed cdtl."""
    if bundle is None:
        with tempfile.TemporaryDirectory(prefix="cdtl-bundle-") as folder:
            bundle = build_bundle(Path(folder) / "app")
    return hashlib.sha256(bundle).hexdigest()
