"""Headless Chromium as a person before a desk: `Browser`, and `DeskTab` for one desk in it."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
MODULES = HERE.parents[1] / "report" / "browser" / "node_modules"
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: make desk installs Debian's"),
    pytest.mark.skipif(not (MODULES / "axe-core").exists(), reason="no axe-core: make desk installs it by npm"),
]
PICTURE_BYTES = 150_000


class Browser:
    """A browser with one tab for each desk; `pages` counts the looks that found nothing serious.

    Args:
        shots: Folder for screenshots, to be looked at.
    """

    def __init__(self, shots: Path) -> None:
        self._shots = shots
        shots.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "CHROMIUM": CHROMIUM}
        command = ["node", str(HERE / "drive.mjs")]
        self._process = subprocess.Popen(command, env=env, text=True, stdin=-1, stdout=-1)
        self.pages = 0
        self.minor: list[Any] = []

    def do(self, op: str, **given: Any) -> Any:
        """Send a command of ``drive.mjs``; returns its value."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, **given}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def enter(self, name: str, link: str) -> "DeskTab":
        """Open a desk by its link, with one click."""
        return DeskTab(self, name, link.partition("/enter/")[0], self.do("enter", desk=name, link=link))

    def shot(self, name: str) -> str:
        """Return the path of a screenshot, without its ending."""
        return str(self._shots / name)

    @property
    def requests(self) -> list[str]:
        """Every address that any tab asked for."""
        return list(self.do("seen")["requests"])

    @property
    def console(self) -> list[str]:
        """Warnings and errors of all tabs, those about the content security policy included."""
        return list(self.do("seen")["console"])

    def close(self) -> None:
        """End the browser."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()


class DeskTab:
    """One desk in a browser; each method is what a person does there."""

    def __init__(self, browser: Browser, name: str, origin: str, base: str) -> None:
        self._browser, self._name, self.origin, self.base = browser, name, origin, base

    def do(self, op: str, **given: Any) -> Any:
        """Send a command about this tab."""
        return self._browser.do(op, desk=self._name, **given)

    def goto(self, path: str) -> int:
        """Open a page of the desk; returns the status."""
        return int(self.do("goto", url=f"{self.origin}{self.base}{path}"))

    def click(self, selector: str) -> None:
        """Click, and wait for the page that follows."""
        self.do("click", selector=selector)

    def type(self, **fields: str) -> None:
        """Fill in fields by their ids."""
        for id, value in fields.items():
            self.do("fill", selector=f"#{id}", value=value)

    def drop(self, selector: str, path: Path) -> None:
        """Drop a file; the form sends itself."""
        self.do("drop", selector=selector, name=path.name, content=base64.b64encode(path.read_bytes()).decode())

    def text(self, selector: str = "body") -> str:
        """Return the visible text of an element."""
        return str(self.do("text", selector=selector))

    def wait(self, text: str, timeout_s: float = 60.0) -> None:
        """Wait until a text is shown, without touching the page."""
        self.do("wait", text=text, timeout=timeout_s * 1000)

    def look(self, name: str) -> None:
        """Look at the page at two widths, light and dark: nothing serious, and nothing wider than the screen."""
        found = self.do("look", shots=self._browser.shot(f"{self._name}-{name}"))
        assert [one for one in found if one["impact"] in {"serious", "critical"}] == []
        self._browser.minor += found
        self._browser.pages += 1

    def picture(self, name: str, height: int = 900) -> None:
        """Keep a picture of the page for the documentation, where CDTL_PICTURES names its folder."""
        path = Path(os.environ.get("CDTL_PICTURES") or self._browser.shot("docs")) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.do("picture", path=str(path), height=height)
        shrink(path)
        assert path.stat().st_size < PICTURE_BYTES, f"{path.name} is larger than a page of the documentation wants"


def shrink(path: Path) -> None:
    """Write a picture of few colours again with a palette."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
