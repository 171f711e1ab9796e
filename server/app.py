"""Flower's ServerApp: see `cdtl_core.coordinator.app`."""

from cdtl_core.coordinator.app import app

__all__ = ["app"]
