"""Finds the report that belongs to a folder: of a simulation, a coordinator, its run, or a site."""

from pathlib import Path

from cdtl_core.config.folders import SITE_FILE, RunFolder
from cdtl_core.errors import ConfigError
from cdtl_core.report.page import Page

__all__ = ["is_coordinators", "page_of", "page_without_patients", "report_path"]


def page_of(folder: Path, *, site: str = "", run: str = "") -> Page:
    """Return the report of a folder.

    Args:
        folder: Folder of a run, a coordinator or a site.
        site: Site of a simulation whose own report is wanted.
        run: Run of a coordinator or a site; empty: the newest.

    Raises:
        ConfigError: The folder is none of these, or has no such site or run.
        CdtlError: A file in it is damaged.
    """
    if not site and not (folder / SITE_FILE).exists():
        return page_without_patients(folder, run=run)
    from cdtl_core.report.site import site_page  # imported here: load only what a page needs

    if (folder / SITE_FILE).exists():
        if site:
            raise ConfigError(f"{folder} is a site's own folder: leave out --site.")
        return site_page(folder, run=run)
    home = RunFolder(folder).site(site).home
    if not (home / SITE_FILE).exists():
        names = ", ".join(sorted(path.parent.name for path in RunFolder(folder).sites.glob(f"*/{SITE_FILE}")))
        raise ConfigError(f"{folder} holds no folder of a site {site}: it has {names or 'none'}.")
    return site_page(home, run=run)


def page_without_patients(folder: Path, *, run: str = "", live: bool = False) -> Page:
    """Return the report of a simulation or of a coordinator's run, which shows no image.

    Args:
        folder: Folder of a run or a coordinator.
        run: Run of a coordinator; empty: the newest.
        live: Whether the page is served during the run.

    Raises:
        ConfigError: The folder is neither.
        CdtlError: A file in it is damaged.
    """
    if is_coordinators(folder) or (folder / "request.json").exists():
        from cdtl_core.report.coordinator import coordinator_page, newest_run

        return coordinator_page(newest_run(folder, run) if is_coordinators(folder) else folder, live=live)
    if RunFolder(folder).holds_simulation():
        from cdtl_core.report.run import run_page

        return run_page(folder, live=live)
    if (folder / SITE_FILE).exists():
        raise ConfigError(f"{folder} is a site's folder, whose report shows patients' images: use cdtl report.")
    if (folder / "compare.json").exists():
        raise ConfigError(
            f"{folder} holds a comparison, which has no page: cdtl compare --resume {folder} prints its tables."
        )
    raise ConfigError(f"{folder} holds no run: give a run directory, a coordinator's folder or a site's.")


def is_coordinators(folder: Path) -> bool:
    """Whether a folder is a coordinator's."""
    return (folder / "server.toml").exists()


def report_path(folder: Path, *, site: str = "", run: str = "") -> Path:
    """Return the default path of a report, in the folder that it is about.

    Args:
        folder: Folder of a run, a coordinator or a site.
        site: Site of a simulation.
        run: Run of a coordinator or a site.
    """
    if site:
        return RunFolder(folder).site(site).home / "report.html"
    if is_coordinators(folder):
        from cdtl_core.report.coordinator import newest_run

        return newest_run(folder, run) / "report.html"
    return folder / "report.html"
