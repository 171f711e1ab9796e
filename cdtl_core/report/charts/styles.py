"""Names and line styles of methods and sites, the same in every figure; the colours are in templates/report.css."""

from collections.abc import Sequence

__all__ = ["METHOD_NAMES", "STYLES", "method_name", "method_style", "site_style"]

STYLES = 7
METHOD_NAMES = {"alone": "local", "fedbn": "FedBN", "cdtl": "CDTL"}
_METHODS = {"alone": 0, "fedbn": 1, "cdtl": 2}
_SITES = (2, 1, 3, 4, 5, 6, 0)


def method_name(method: str) -> str:
    """Return the name of a method as tables, charts and pages show it."""
    return METHOD_NAMES.get(method, method)


def method_style(method: str) -> int:
    """Return the line style of a method."""
    return _METHODS.get(method, 3)


def site_style(site: str, sites: Sequence[str]) -> int:
    """Return the line style of a site; styles repeat after seven sites."""
    return _SITES[list(sites).index(site) % len(_SITES)]
