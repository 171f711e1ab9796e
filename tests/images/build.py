"""Builds the images of docker/Dockerfile with buildah, on a Debian that debootstrap makes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cdtl_core.errors import ConfigError

__all__ = ["TARGETS", "Store", "check_machine", "pip_settings"]

TARGETS = ("coordinator", "site", "simulation")
_PROGRAMS = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "runc": "runc",
    "ip": "iproute2",
    "tini-static": "tini",
}


def check_machine() -> None:
    """Look for what the build and the containers need.

    Raises:
        ConfigError: This is not root, or a program is missing.
    """
    if os.geteuid() != 0:
        raise ConfigError("containers are made by root here: run sudo make images.")
    missing = sorted(package for program, package in _PROGRAMS.items() if shutil.which(program) is None)
    if missing:
        raise ConfigError(f"missing on this machine: run apt-get install {' '.join(missing)}.")


def pip_settings(folder: Path) -> list[tuple[Path, str]]:
    """Write this machine's settings of pip for use in a build.

    Args:
        folder: Takes the file.

    Returns:
        What to mount in the build, and where: the settings, the certificates, every folder of wheels that they name.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    settings = {}
    for line in lines:
        key, value = line.split("=", 1)
        settings[key.split(".", 1)[1]] = value.strip("'")
    settings.pop("constraint", None)  # the lock file says more
    folders = set(re.findall(r"/[^\s':]+", settings.get("find-links", "")))
    folders |= {
        str(Path(index).parent) for index in re.findall(r"file://(/[^\s']+)", settings.get("extra-index-url", ""))
    }
    mounts = [(Path(name), name) for name in sorted(folders)]
    if "cert" in settings:
        mounts.append((Path(settings["cert"]), "/etc/pip-ca.crt"))
        settings["cert"] = "/etc/pip-ca.crt"
    path = folder / "pip.conf"
    path.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    return [(path, "/etc/pip.conf"), *mounts]


class Store:
    """Images and containers of one run, in a folder that is removed at the end.

    Attributes:
        folder: Where everything lies.
        driver: Storage driver of buildah: overlay, or vfs (a full copy per layer) where the kernel has no overlay.
    """

    def __init__(self, folder: Path, driver: str = "overlay") -> None:
        self.folder = folder
        self._buildah = ["buildah", "--storage-driver", driver, "--root", str(folder / "store")]
        self._buildah += ["--runroot", str(folder / "run")]

    def call(self, *arguments: str | Path, log: Path | None = None) -> str:
        """Run buildah; returns what it prints.

        Raises:
            subprocess.CalledProcessError: It failed; its messages went to the terminal, or to `log`.
        """
        command = [*self._buildah, *map(str, arguments)]
        if log is None:
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        with open(log, "ab") as file:
            subprocess.run(command, check=True, stdout=file, stderr=file)
        return ""

    def base(self, suite: str = "bookworm") -> str:
        """Make the base image: the smallest Debian with Python; returns its digest, 64 hex digits."""
        root = self.folder / "base"
        command = ["debootstrap", "--variant=minbase", "--include=python3", suite, str(root)]
        with open(self.folder / "debootstrap.log", "wb") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log)
        shutil.rmtree(root / "var" / "cache" / "apt")
        shutil.rmtree(root / "var" / "lib" / "apt" / "lists")
        (root / "var" / "lib" / "apt" / "lists" / "partial").mkdir(parents=True)
        (root / "var" / "cache" / "apt" / "archives" / "partial").mkdir(parents=True)
        container = self.call("from", "scratch")
        self.call("add", "--quiet", container, root, "/")
        self.call("commit", "--quiet", "--rm", "--format", "docker", container, "cdtl-base")
        shutil.rmtree(root)
        digest = self.call("inspect", "--type", "image", "--format", "{{.FromImageDigest}}", "localhost/cdtl-base")
        return digest.removeprefix("sha256:")

    def build(self, root: Path, target: str, digest: str, torch: str = "cpu") -> None:
        """Build one target of the checkout `root`, on the base of that digest; messages go to build.log."""
        arguments = {"PYTHON_IMAGE": "localhost/cdtl-base", "PYTHON_SHA256": digest, "TORCH": torch}
        flags = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        for source, place in pip_settings(self.folder):
            flags += ["--volume", f"{source}:{place}:ro"]
        flags += ["--isolation", "chroot", "--format", "docker", "--layers", "--target", target]
        dockerfile = root / "docker" / "Dockerfile"
        log = self.folder / "build.log"
        self.call("build", *flags, "--file", dockerfile, "--tag", f"cdtl-{target}", root, log=log)

    def mounted(self, target: str) -> Path:
        """Make a container of a target; returns the folder that is its root file system."""
        return Path(self.call("mount", self.call("from", f"localhost/cdtl-{target}")))

    def remove(self) -> None:
        """Unmount and delete everything."""
        if (self.folder / "store").exists():
            self.call("umount", "--all")
            self.call("rm", "--all")
            self.call("rmi", "--all", "--force")
        shutil.rmtree(self.folder)
