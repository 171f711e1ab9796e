"""Chromium at the coordinator's desk: a site is invited, admitted and revoked, and a run is watched to its end."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cdtl_core.config import SiteConfig
from cdtl_core.deploy.coordinator_address import save_address
from cdtl_core.deploy.enrolling import enrol_site, make_site
from cdtl_core.deploy.invitation import load_invitation
from cdtl_core.deploy.keys import spoken_end
from cdtl_core.deploy.members import members
from tests.deploy.deployment import MODEL, Deployment
from tests.deploy.joined import Make, Tiny, make
from tests.desk.browser.chromium import MARKS, Browser, DeskTab
from tests.tables import Figures

__all__ = ["make"]
pytestmark = [*MARKS, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
PAGES = ("/", "/sites", "/invite", "/runs", "/log")


def test_a_coordinator_admits_a_site_and_watches_a_run_to_its_end(
    tiny: Tiny, make: Make, tmp_path: Path, browser: Browser, desk_of: Callable[..., str], figures: Figures
) -> None:
    limits = {"rounds": 2, "min_sites": 3, "round_timeout_s": 400.0, "join_timeout_s": 600.0}
    config = tiny(model=MODEL, federation=limits)
    deployment = make(config)
    tab = browser.enter("coordinator", desk_of("server", deployment.coordinator))
    assert "The coordinator's service does not run." in tab.text("#needs")
    for path in PAGES:
        assert tab.goto(path) == 200
        tab.look(f"before-{path.strip('/') or 'overview'}")
    deployment.start_all()
    deployment.connected(400.0)
    _invite(tab, deployment)
    _admit(tab, deployment, tmp_path / "at" / "cork", config.run)
    run = deployment.request(config.of_method("cdtl"))
    deployment.play(run)
    _watch(tab, deployment, run)
    _revoke(tab, deployment)
    tab.goto("/log")
    assert "Whole: no line was altered" in tab.text()
    tab.look("log")
    tab.click("#sign-out")
    assert "Signed out" in tab.text()
    assert tab.goto("/sites") == 401
    refused = ("400 (Bad Request)", "401 (Unauthorized)")  # the wrong fingerprint, and the page after signing out
    assert [one for one in browser.console if not one.endswith(tuple(f"status of {code}" for code in refused))] == []
    asked = browser.requests
    assert all(url == "data:" or url.startswith(f"{tab.origin}/") for url in asked)
    figures("coordinator's desk: pages looked at, each at 390 and 1280 px, light and dark", str(browser.pages))
    figures("coordinator's desk: requests to this machine, to others", f"{len(asked)}, 0")
    figures("coordinator's desk: axe findings that are not serious", str(len(browser.minor)))
    deployment.stop()


def _invite(tab: DeskTab, deployment: Deployment) -> None:
    tab.goto("/invite")
    tab.type(site="cork")
    tab.click("#invite")
    made = load_invitation(deployment.coordinator / "invitations" / "cork.json")
    assert made.fingerprint in tab.text()
    tab.look("invited")


def _admit(tab: DeskTab, deployment: Deployment, home: Path, run: object) -> None:
    """Site cork sends its file; it is looked at, refused with another fingerprint, and admitted with its own."""
    settings = {"site": "cork", "modality": "ultrasound", "data": {"phantom": {"patients": 16}}}
    deployment.settings["cork"] = SiteConfig.model_validate(settings)
    make_site(home, deployment.settings["cork"])
    fingerprint = enrol_site(home, run).fingerprint  # type: ignore[arg-type]
    tab.goto("/sites")
    tab.look("sites")
    tab.drop(".drop", home / "enrolment.json")
    assert tab.text("#fingerprint") == fingerprint
    tab.look("application")
    tab.picture("coordinator-admit", 760)
    tab.type(spoken="0000 0000 0000 0000")
    tab.click("#admit")
    assert "nothing was done" in tab.text("#fault")
    tab.look("not-admitted")
    assert "cork" not in [member.site for member in members(deployment.coordinator)]
    tab.goto("/")
    assert "Site cork wants to join." in tab.text("#needs")
    tab.click("text=Decide")
    tab.type(spoken=spoken_end(fingerprint))
    tab.click("#admit")
    assert "cork is admitted" in tab.text()
    save_address(home, f"localhost:{deployment.port}", deployment.ca)
    deployment.homes["cork"] = home
    deployment.start("cork")
    tab.click("text=Members")
    tab.do(
        "run",
        code="""new Promise((done) => setInterval(() =>
        /cork[^]*connected/.test(document.querySelector('#members').innerText) && done(), 200))""",
    )
    tab.look("members")


def _watch(tab: DeskTab, deployment: Deployment, run: Path) -> None:
    """The page of the run shows by itself who is waited for, each round, and the results."""
    tab.goto("/runs")
    tab.wait("tiny")
    tab.click("text=tiny")
    tab.wait("Waits for", 200)
    tab.look("run-waits")
    deployment.approve(run)
    tab.wait("round 1 of 2", 600)
    tab.picture("coordinator-run", 1000)
    tab.look("run-live")
    assert deployment.ended(run, timeout_s=900.0) == "completed", deployment.story()
    tab.wait("completed", 60)
    tab.wait("AUROC on test patients")
    assert "Stop the run" not in tab.text()
    tab.look("run-ended")
    tab.click("text=Report of the run")
    assert "the coordinator's report" in tab.text("h1")
    tab.goto("/")
    tab.wait("Nothing waits for you.")
    tab.look("overview")


def _revoke(tab: DeskTab, deployment: Deployment) -> None:
    tab.goto("/sites/cork")
    tab.look("member")
    tab.type(name="cork")
    tab.click("#revoke")
    assert "cork is revoked" in tab.text()
    assert [one.site for one in members(deployment.coordinator) if one.revoked_at] == ["cork"]
    tab.look("revoked")
