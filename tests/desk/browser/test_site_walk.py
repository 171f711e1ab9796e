"""Chromium at the desks of a deployed site: from the enrolment over every decision to a run's end and a prediction."""

import html
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.settings import load_site
from cdtl_core.data.synthetic.writing import write_phantoms
from cdtl_core.deploy.approval_list import approvals
from cdtl_core.deploy.approvals import decide
from cdtl_core.deploy.coordinator_address import save_address
from cdtl_core.deploy.enrolling import enrol_site, make_site
from cdtl_core.deploy.enrolment import load_enrolment
from cdtl_core.deploy.members import admit
from cdtl_core.deploy.persons import make_person_key
from cdtl_core.deploy.refusing import refusals
from cdtl_core.deploy.runs import stop_run
from tests.deploy.deployment import MODEL, Deployment
from tests.deploy.joined import Make, Tiny, make
from tests.desk.browser.chromium import MARKS, Browser, DeskTab
from tests.tables import Figures

__all__ = ["make"]
pytestmark = [*MARKS, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
DeskOf = Callable[..., str]
PHRASE = "correct horse"
LONG_S = 400.0  # on a busy machine a site takes minutes to connect
PAGES = ("/", "/requests", "/runs", "/images", "/left", "/privacy", "/models", "/predict")


class Walk:
    """A coordinator and its sites, with a browser before the desks of some of them."""

    def __init__(self, deployment: Deployment, browser: Browser, desk_of: DeskOf) -> None:
        self.deployment, self.browser, self._desk_of = deployment, browser, desk_of

    def open(self, site: str, home: Path | None = None) -> DeskTab:
        return self.browser.enter(site, self._desk_of("site", home or self.deployment.homes[site]))

    def decided(self, site: str) -> bool:
        home = self.deployment.homes[site]
        own, found = load_site(home / "site.toml"), approvals(home).values()
        return any(decide(home, one.bundle_sha256, one.settings, own).approved for one in found)


def test_a_person_enrols_decides_follows_a_run_and_predicts_at_the_desk(
    tiny: Tiny, make: Make, tmp_path: Path, browser: Browser, desk_of: DeskOf, figures: Figures
) -> None:
    keys = {name: make_person_key(tmp_path / f"{name}.key", PHRASE) for name in ("Ana Roe", "Ben Low")}
    federation = {"rounds": 3, "sites": ["alba", "bari", "como"], "round_timeout_s": 300.0, "join_timeout_s": 900.0}
    config = tiny(model=MODEL, federation=federation)
    alba = config.sites[0].model_dump(exclude_none=True) | {"approval": {"people": 2, "keys": keys}}
    config = config.model_copy(update={"sites": (SiteConfig.model_validate(alba), *config.sites[1:])})
    run_config = config.of_method("cdtl")
    walk = Walk(make(config), browser, desk_of)
    deployment = walk.deployment
    deployment.start_all()
    cork = _enrol_at_the_desk(walk, tmp_path / "at" / "cork", run_config)
    first = deployment.request(_with(run_config, name="first", federation={"sites": ["cork"], "min_sites": 1}))
    deployment.play(first)
    _refuse_at_the_desk(walk, cork)
    stop_run(deployment.coordinator, "first")
    run = deployment.request(run_config)
    deployment.play(run)
    _read_a_file_and_approve(walk, deployment.request(_private(run_config)) / "request.json")
    _approve_by_two(walk, tmp_path)
    deployment.approve(run, "como")
    tab = walk.open("watching", deployment.homes["alba"])
    tab.goto("/runs")
    tab.wait("round 3 of 3", LONG_S)
    assert deployment.ended(run) == "completed", deployment.story()
    _look_at_the_past(tab)
    _predict(tab, deployment.homes["alba"])
    assert [one for one in browser.console if "the server responded with a status of 4" not in one] == []
    asked = browser.requests
    hosts = {"/".join(url.split("/")[:3]) for url in asked if url != "data:"}
    assert all(host.startswith("http://127.0.0.1:") for host in hosts), hosts
    assert len(hosts) == 4
    figures("site desk: pages looked at, each at 390 and 1280 px, light and dark", str(browser.pages))
    figures("site desk: requests to this machine, to others", f"{len(asked)}, 0")
    figures("site desk: axe findings that are not serious", str(len(browser.minor)))
    _attack(walk, cork, figures)
    deployment.stop()


def _enrol_at_the_desk(walk: Walk, home: Path, config: RunConfig) -> DeskTab:
    """Site cork: enrolled but not admitted; then the coordinator admits it, and the open page says so by itself."""
    write_phantoms(home.with_name("images"), modality="ultrasound", num_patients=24, seed=5, size=160)
    data = {"root": str(home.with_name("images")), "manifest": "manifest.csv"}
    make_site(home, SiteConfig.model_validate({"site": "cork", "modality": "ultrasound", "data": data}))
    enrolment = enrol_site(home, config)
    save_address(home, f"localhost:{walk.deployment.port}", walk.deployment.ca)
    tab = walk.open("cork", home)
    assert "written, not admitted yet" in tab.text("#enrolment")
    assert tab.text("#fingerprint") == enrolment.fingerprint
    assert "The site's service does not run." in tab.text("#needs")
    assert tab.do("tab", count=3)[0] == ["#main", True]
    assert all(visible for _, visible in tab.do("tab", count=7))
    tab.look("overview-before")
    for path in PAGES:
        assert tab.goto(path) == 200
        tab.look(f"empty-{path.strip('/') or 'overview'}")
    tab.goto("/images")
    tab.click("#check-send")
    tab.wait("No errors.", LONG_S)
    tab.look("images")
    tab.click("text=The images concerned")
    tab.look("findings")
    tab.goto("/")
    admit(walk.deployment.coordinator, load_enrolment(home / "enrolment.json"))
    walk.deployment.homes["cork"] = home
    walk.deployment.start("cork")
    tab.wait("admitted by the coordinator", LONG_S)
    return tab


def _refuse_at_the_desk(walk: Walk, tab: DeskTab) -> None:
    """The run reaches cork, which has not approved it: it waits there, and a person refuses it."""
    home = walk.deployment.homes["cork"]
    tab.wait("waits for your decision", LONG_S)
    tab.picture("overview", 760)
    tab.look("overview-waiting")
    tab.click("text=Decide")
    assert "the code that is installed here" in tab.text("#code")
    tab.look("request")
    tab.type(refuse_name="Dr. Roe")
    tab.do("run", code="document.querySelector('#refuse_reason').required = false")
    tab.click("#refuse-send")
    assert "give your name and a reason" in tab.text("#fault")
    tab.look("request-fault")
    tab.type(refuse_reason="no ethics vote yet")
    tab.click("#refuse-send")
    assert "The run first is refused." in tab.text()
    assert [one.note for one in refusals(home).values()] == ["Dr. Roe: no ethics vote yet"]
    tab.look("requests-refused")


def _with(config: RunConfig, name: str, **tables: dict[str, Any]) -> RunConfig:
    """Return a run of another name, with other values in some tables."""
    tree = config.model_dump(exclude_none=True)
    return RunConfig.model_validate(
        {**tree, **{key: {**tree[key], **one} for key, one in tables.items()}, "name": name}
    )


def _private(config: RunConfig) -> RunConfig:
    """Return another run, with differential privacy."""
    dp, model = {"enabled": True, "target_epsilon": 4.0}, {"levels": [2, 3], "dropout": 0.0}
    return _with(config, name="private", dp=dp, model=model)


def _read_a_file_and_approve(walk: Walk, other: Path) -> None:
    """Site bari: one person reads the request of a private run from its file and refuses it, then approves the run."""
    tab, deployment = walk.open("bari"), walk.deployment
    tab.goto("/requests")
    tab.do("file", selector="#request", path=str(other))
    tab.click("#take-send")
    assert "Epsilon 0.00 is spent before this run, and at most 4 is spent after it." in tab.text("#budget")
    tab.look("request-private")
    tab.type(refuse_name="Dr. Low", refuse_reason="too little privacy")
    tab.click("#refuse-send")
    tab.goto("/")
    tab.wait("waits for your decision", LONG_S)
    tab.click("text=Decide")
    tab.picture("request", 1500)
    assert not walk.decided("bari")
    tab.type(approve_name="Dr. Low", approve_reason="ethics vote 17/26")
    tab.do("check", selector="#read")
    tab.click("#approve-send")
    assert "The run tiny is approved." in tab.text()
    assert walk.decided("bari")
    tab.look("requests-approved")
    assert deployment.homes["bari"].exists()


def _approve_by_two(walk: Walk, keys: Path) -> None:
    """Site alba: the run may begin only after both persons have signed, each with a key."""
    tab = walk.open("alba")
    tab.wait("waits for your decision", LONG_S)
    tab.click("text=Decide")
    for name, passphrase, said in (
        ("Ana Roe", "wrong horse", "the passphrase or the file is wrong"),
        ("Ana Roe", PHRASE, "another of Ben Low has to"),
        ("Ana Roe", PHRASE, "another of Ben Low has to"),
    ):
        _sign(tab, name, keys, passphrase)
        assert said in tab.text()
        assert not walk.decided("alba")
    tab.look("request-second-person")
    tab.picture("second", 620)
    _sign(tab, "Ben Low", keys, PHRASE)
    assert "The run tiny is approved." in tab.text()
    assert walk.decided("alba")


def _sign(tab: DeskTab, name: str, keys: Path, passphrase: str) -> None:
    tab.do("select", selector="#approve_name", value=name)
    tab.do("file", selector="#key", path=str(keys / f"{name}.key"))
    tab.type(passphrase=passphrase, approve_reason="ethics vote 17/26")
    tab.do("check", selector="#read")
    tab.click("#approve-send")


def _look_at_the_past(tab: DeskTab) -> None:
    tab.goto("/runs")
    tab.look("runs")
    tab.goto("/left")
    assert "FAULTS" not in tab.text("#logs")
    assert "egress:" in tab.text("#logs")
    tab.look("left")
    tab.picture("left", 900)
    tab.goto("/models")
    tab.look("models")
    tab.click("text=tiny-cdtl")
    tab.look("model")
    tab.click("text=The whole report")
    assert "alba: results of tiny" in tab.text("h1")
    assert tab.do("run", code="getComputedStyle(document.querySelector('.frame')).maxWidth") != "none"
    for path in ("/privacy", "/requests", "/"):
        tab.goto(path)
        tab.look(f"after-{path.strip('/') or 'overview'}")


def _predict(tab: DeskTab, home: Path) -> None:
    """One image by the field, one by drag and drop, one file that is no image."""
    image, other = sorted(home.glob("cache/**/*.png"))[:2]
    tab.goto("/predict")
    tab.look("predict")
    tab.do("file", selector="#image", path=str(image))
    tab.click("#predict-send")
    assert "Called: " in tab.text("#called")
    assert image.name in tab.text("#answer")
    tab.look("predict-answer")
    tab.picture("predict", 900)
    tab.drop(".drop", other)
    assert other.name in tab.text("#answer")
    broken = home / "logs" / "service.log"
    tab.do("file", selector="#image", path=str(broken))
    tab.click("#predict-send")
    assert "service.log" in tab.text("#fault")
    assert "cdtl-image" not in tab.text("#fault")
    tab.look("predict-fault")
    tab.click("#sign-out")
    assert "Signed out" in tab.text()
    assert tab.goto("/") == 401


@contextmanager
def _foreign(folder: Path, page: str) -> Iterator[str]:
    """Serve a page of another origin."""
    (folder / "index.html").write_text(page, encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _attack(walk: Walk, tab: DeskTab, figures: Figures) -> None:
    """Pages of another origin in the browser with cork's session, a rebound name, and a form without its token."""
    home = walk.deployment.homes["cork"]
    (id,) = refusals(home)
    before = sorted(path.name for path in home.glob("*/*.json"))
    assert tab.do("run", code="document.cookie") == ""
    action = html.escape(f"{tab.origin}{tab.base}/requests/{id}/approve")
    fields = "".join(f'<input name="{name}" value="x">' for name in ("csrf", "approve_name", "approve_reason", "read"))
    form = f'<form method="post" action="{action}">{fields}</form>'
    with _foreign(home.parent, f"{form}<script>document.forms[0].submit()</script>") as url:
        tab.do("goto", url=url)
        tab.wait("This form comes from another site")
    with _foreign(home.parent, f'<iframe src="{tab.origin}{tab.base}/"></iframe><p>loaded</p>') as url:
        tab.do("goto", url=url)
        assert tab.do("run", code="document.querySelector('iframe').contentDocument === null")
        code = f"fetch('{tab.origin}{tab.base}/', {{credentials: 'include'}}).then(() => 'read', () => 'refused')"
        assert tab.do("run", code=code) == "refused"
    port = tab.origin.rsplit(":", 1)[1]
    status, text = walk.browser.do("plain", desk="rebound", url=f"http://evil.example:{port}{tab.base}/")
    assert (status, "answers only under the address" in text) == (421, True)
    tab.goto(f"/requests/{id}")
    tab.do("run", code="document.querySelector('#approve input[name=csrf]').value = 'x'")
    tab.type(approve_name="x", approve_reason="x")
    tab.do("check", selector="#read")
    tab.click("#approve-send")
    assert "This form is not of this session" in tab.text()
    assert sorted(path.name for path in home.glob("*/*.json")) == before
    assert not walk.decided("cork")
    figures("site desk: attacks of a foreign page, a rebound name, a form without token", "5 refused")
