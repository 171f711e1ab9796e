"""Runs docker/README.md with the Compose file's services under runc, from nothing to a finished run of three sites."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.images import network
from tests.images.build import Store
from tests.images.containers import Containers, bundle

__all__ = ["Study", "steps"]

TINY = "image.size=32 model.backbone=test_efficientnet model.weights=random train.steps=2 train.batch_size=4"
TINY += " federation.rounds=2 federation.min_sites=3 blend.settle=1"
_UID = 10001


def steps(readme: str) -> list[list[str]]:
    """The commands of the section on one machine, in words; those that only prepare Docker are left out."""
    section = re.split(r"^## ", readme, flags=re.MULTILINE)
    text = next(part for part in section if part.startswith("A federation on one machine"))
    lines = [line for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [
        one for one in words if one and one[0] not in ("cd", "export") and one[:3] != ["docker", "compose", "build"]
    ]


def tiny(words: list[str]) -> list[str]:
    """Return the command with few synthetic patients and a small network."""
    if "--phantom" in words:
        place = words.index("--phantom") + 1
        return [*words[:place], "24", *words[place + 1 :]]
    if "run" in words and "server" in words:
        return [*words, *(word for setting in TINY.split() for word in ("--set", setting))]
    return words


class Study:
    """One federation from a Compose file: its networks, its containers, its folders.

    Attributes:
        compose: The Compose file.
        ports: Addresses of the services.
        containers: What runs.
    """

    def __init__(self, compose: dict[str, Any], store: Store) -> None:
        self.compose, self._store = compose, store
        self.ports = network.plan(compose)
        self._folder = store.folder / "docker"
        self._prefix = f"cdtl{os.getpid()}-"
        self._folder.mkdir()
        self.containers = Containers(self._folder, self._prefix)
        self._roots: dict[str, Path] = {}
        self._images: dict[str, Any] = {}
        self._run: subprocess.Popen[bytes] | None = None
        network.set_up(self.ports, compose["services"], self._prefix)
        for name in compose["volumes"]:
            self._volume(name)
        for name in compose["services"]:
            (self._folder / f"{name}.hosts").write_text(network.hosts(self.ports, name))
            (self._folder / f"{name}.resolv").write_text("")

    def _volume(self, name: str) -> None:
        """A new volume takes the owner and the rights that /state has in the image."""
        place = self._folder / "volumes" / name
        place.mkdir(parents=True)
        os.chown(place, _UID, _UID)
        place.chmod(0o700)

    def _config(self, name: str, command: list[str] | None = None, entrypoint: str = "") -> dict[str, Any]:
        service = dict(self.compose["services"][name])
        target = service["image"].split(":")[0].removeprefix("cdtl-")
        if name not in self._roots:
            self._roots[name] = self._store.mounted(target)
            inspected = self._store.call("inspect", "--type", "image", f"localhost/cdtl-{target}")
            self._images[name] = json.loads(inspected)["Docker"]["config"]
        if command is not None:
            service["command"] = command
        if entrypoint:
            service["entrypoint"] = [entrypoint]
        mode = service.get("network_mode", "")
        space = Path("/run/netns", self._prefix + (mode.removeprefix("service:") if mode else name))
        config = bundle(
            service, self._images[name], self._roots[name], self._sources(), None if mode == "none" else space
        )
        for kind, place in (("hosts", "/etc/hosts"), ("resolv", "/etc/resolv.conf")):
            source = str(self._folder / f"{name}.{kind}")
            mount = {"destination": place, "type": "bind", "source": source, "options": ["bind", "ro"]}
            config["mounts"].append(mount)
        return config

    def _sources(self) -> dict[str, Path]:
        found = {name: self._folder / "volumes" / name for name in self.compose["volumes"]}
        for service in self.compose["services"].values():
            for mount in service.get("volumes", []):
                if mount["type"] == "bind":
                    place = re.sub(r"\$\{\w+:-(.+?)\}", r"\1", mount["source"])
                    found[mount["source"]] = self._folder / place
        return found

    def play(self, words: list[str]) -> None:
        """Do one step of the README."""
        if words[0] == "mkdir":
            for name in words[2:]:
                (self._folder / name).mkdir(parents=True, exist_ok=True)
        elif words[0] == "cp":
            shutil.copyfile(self._folder / words[1], self._folder / words[2])
        elif words[:3] == ["docker", "compose", "run"]:
            self._keep(words, self._run_once)
        elif words[:3] == ["docker", "compose", "up"]:
            self._up([word for word in words[3:] if not word.startswith("-")])
        elif words[:3] == ["docker", "compose", "exec"]:
            self._keep([word for word in words if word != "-T"], self._execute)
        else:
            raise ValueError(f"docker/README.md has a step that is not understood: {shlex.join(words)}")

    def _keep(self, words: list[str], do: Any) -> None:
        file = ""
        if ">" in words:
            words, file = words[: words.index(">")], words[-1]
        said = do(tiny(words[3:]))
        if file:
            (self._folder / file).write_text(said)

    def _run_once(self, words: list[str]) -> str:
        place = next(i for i, word in enumerate(words) if word in self.compose["services"])
        entry = words[words.index("--entrypoint") + 1] if "--entrypoint" in words[:place] else ""
        return self.containers.run(f"{words[place]}-once", self._config(words[place], words[place + 1 :], entry))

    def _up(self, names: list[str]) -> None:
        for name in names:
            self.containers.start(name, self._config(name))
        for name in names:
            self.containers.await_health(name, self.compose["services"][name]["healthcheck"]["test"])

    def _execute(self, words: list[str]) -> str:
        name, *rest = words
        if rest[:3] != ["cdtl", "server", "run"]:
            return self._patiently(name, rest)
        with open(self.containers.log("run"), "wb") as log:
            self._run = subprocess.Popen(self.containers.command(name, *rest), stdout=log, stderr=log)
        return ""

    def _patiently(self, name: str, words: list[str], wait_s: float = 60.0) -> str:
        """A request is there a moment after `server run` began: a person would look again."""
        end = time.monotonic() + wait_s
        while True:
            try:
                return self.containers.execute(name, *words)
            except RuntimeError:
                if words[0] != "cat" or time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def keys_of_others(self, name: str) -> dict[str, str]:
        """SHA-256 of each private key that a service must not see, to where it lies.

        A service owns the keys of the volume that is its /state. A site's node owns none: it has a key of its own that
        is good for its filter only, and a copy of the key that numbers the site's patients.
        """
        mounts = self.compose["services"][name]["volumes"]
        whole = {mount["source"] for mount in mounts if mount["target"] == "/state"}
        parts = {mount["source"] for mount in mounts if "volume" in mount}
        found = {}
        for volume in set(self.compose["volumes"]) - whole:
            for path in (self._folder / "volumes" / volume).rglob("*.key"):
                if volume not in parts or path.name not in ("node.key", "patient.key"):
                    found[hashlib.sha256(path.read_bytes()).hexdigest()] = f"{volume}: {path.name}"
        return found

    def await_end(self, wait_s: float = 900.0) -> str:
        """Wait for the run and return what `server run` printed.

        Raises:
            RuntimeError: It did not complete.
        """
        if self._run is None:
            raise RuntimeError("docker/README.md starts no run")
        code = self._run.wait(timeout=wait_s)
        said = self.containers.log("run").read_text()
        if code:
            raise RuntimeError(f"the run ended with {code}: {said}")
        return said

    def stop(self) -> None:
        """End the containers and remove the networks."""
        if self._run is not None and self._run.poll() is None:
            self._run.kill()
        self.containers.stop()
        network.remove(self._prefix)
