"""Which report a folder is for: a simulation's run, a coordinator, its run, or a site."""

from pathlib import Path

from cdtl_core.config.settings import SITE_FILE
from cdtl_core.errors import ConfigError
from cdtl_core.report.page import Page

__all__ = ["is_coordinators", "page_of", "page_without_patients", "report_path"]


def page_of(folder: Path, *, site: str = "", run: str = "") -> Page:
    """The report of a folder.

    Args:
        folder: Of a run, a coordinator or a site.
        site: Of a simulation, whose own report is wanted.
        run: Of a coordinator or a site, which run; the newest if empty.

    Raises:
        ConfigError: The folder is none of these, or has no such site or run.
        CdtlError: A file in it is damaged.
    """
    if not site and not (folder / SITE_FILE).exists():
        return page_without_patients(folder, run=run)
    from cdtl_core.report.site import site_page  # what a page does not need is not loaded

    if (folder / SITE_FILE).exists():
        if site:
            raise ConfigError(f"{folder} is a site's own folder: leave out --site.")
        return site_page(folder, run=run)
    home = folder / "sites" / site
    if not (home / SITE_FILE).exists():
        names = ", ".join(sorted(path.parent.name for path in (folder / "sites").glob(f"*/{SITE_FILE}")))
        raise ConfigError(f"{folder} holds no folder of a site {site}: it has {names or 'none'}.")
    return site_page(home, run=run)


def page_without_patients(folder: Path, *, run: str = "", live: bool = False) -> Page:
    """The report of a simulation or of a coordinator's run, which shows no image.

    Raises:
        ConfigError: The folder is neither.
        CdtlError: A file in it is damaged.
    """
    if is_coordinators(folder) or (folder / "request.json").exists():
        from cdtl_core.report.coordinator import coordinator_page, newest_run

        return coordinator_page(newest_run(folder, run) if is_coordinators(folder) else folder, live=live)
    if (folder / "config.toml").exists() and (folder / "sites").is_dir():
        from cdtl_core.report.run import run_page

        return run_page(folder, live=live)
    if (folder / SITE_FILE).exists():
        raise ConfigError(f"{folder} is a site's folder, whose report shows patients' images: use cdtl report.")
    raise ConfigError(f"{folder} holds no run: give a run directory, a coordinator's folder or a site's.")


def is_coordinators(folder: Path) -> bool:
    """Whether a folder is a coordinator's."""
    return (folder / "server.toml").exists()


def report_path(folder: Path, *, site: str = "", run: str = "") -> Path:
    """Where a report is written unless a person says where: beside what it tells of."""
    if site:
        return folder / "sites" / site / "report.html"
    if is_coordinators(folder):
        from cdtl_core.report.coordinator import newest_run

        return newest_run(folder, run) / "report.html"
    return folder / "report.html"
