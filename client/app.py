"""Flower's ClientApp: see `cdtl_core.site.app`."""

from cdtl_core.site.app import app

__all__ = ["app"]
