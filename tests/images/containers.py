"""A service of a Compose file as an OCI container under runc, which is what Docker starts too."""

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Containers", "bundle", "seccomp"]

_INIT = Path("/usr/bin/tini-static")  # the program that Docker puts before a service with `init: true`
_PROFILE = Path("/usr/share/containers/seccomp.json")
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_KNOWN = {"build", "cap_drop", "command", "depends_on", "entrypoint", "healthcheck", "image", "init", "logging"}
_KNOWN |= {"mem_limit", "memswap_limit", "networks", "network_mode", "pids_limit", "read_only", "restart", "secrets"}
_KNOWN |= {"security_opt", "stop_grace_period", "sysctls", "tmpfs", "ulimits", "volumes", "environment", "user"}


def seccomp(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The default profile of container engines for x86-64 and no capability, in the form that runc reads."""
    calls = []
    for rule in profile["syscalls"]:
        asked, spared = rule.get("includes", {}), rule.get("excludes", {})
        here = not asked.get("caps") and "amd64" in asked.get("arches", ["amd64"]) and not asked.get("minKernel")
        if here and "amd64" not in spared.get("arches", []):
            kept = {
                key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) not in (None, [])
            }
            calls.append(kept)
    names = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    return {"defaultAction": profile["defaultAction"], "architectures": names, "syscalls": calls} | (
        {"defaultErrnoRet": profile["defaultErrnoRet"]} if "defaultErrnoRet" in profile else {}
    )


def size(text: str | int) -> int:
    """Bytes of a size in a Compose file (`512m`)."""
    found = re.fullmatch(r"(\d+)([kmg]?)b?", str(text).lower())
    if found is None:
        raise ValueError(f"{text} is not a size")
    return int(found[1]) * _UNITS[found[2]]


def _mounts(service: Mapping[str, Any], sources: Mapping[str, Path]) -> list[dict[str, Any]]:
    kinds = [("proc", "/proc", ["nosuid", "noexec", "nodev"]), ("sysfs", "/sys", ["nosuid", "noexec", "nodev", "ro"])]
    kinds += [("devpts", "/dev/pts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"])]
    kinds += [("mqueue", "/dev/mqueue", ["nosuid", "noexec", "nodev"])]
    mounts = [{"destination": place, "type": kind, "source": kind, "options": opts} for kind, place, opts in kinds]
    for place, opts in (("/dev", ["nosuid", "strictatime", "mode=755", "size=65536k"]), ("/dev/shm", ["size=65536k"])):
        entry = {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", *opts]}
        mounts.insert(1 if place == "/dev" else len(mounts), entry)
    for line in service.get("tmpfs", []):
        place, _, opts = line.partition(":")
        options = ["nosuid", "nodev", "noexec", *opts.split(",")]  # as Docker adds them
        mounts.append({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
    for mount in service.get("volumes", []):
        options = ["rbind", "ro" if mount.get("read_only") else "rw"]
        source = str(sources[mount["source"]] / mount.get("volume", {}).get("subpath", ""))
        mounts.append({"destination": mount["target"], "type": "bind", "source": source, "options": options})
    return mounts


def bundle(
    service: Mapping[str, Any],
    image: Mapping[str, Any],
    root: Path,
    sources: Mapping[str, Path],
    namespace: Path | None,
) -> dict[str, Any]:
    """The config.json of a service.

    Args:
        service: From the Compose file.
        image: The image's own settings: User, Env, Entrypoint, Cmd, WorkingDir.
        root: The image's root file system.
        sources: Folder of each volume and each bind mount, by its name in the Compose file.
        namespace: Network namespace; None for one without any interface.

    Raises:
        ValueError: The service has a setting that is not translated here.
    """
    if unknown := set(service) - _KNOWN:
        raise ValueError(f"settings of the Compose file that are not tried here: {', '.join(sorted(unknown))}")
    if service["cap_drop"] != ["ALL"] or service["security_opt"] != ["no-new-privileges:true"]:
        raise ValueError("only services without capabilities and new privileges are tried here")
    user, _, group = str(service.get("user", image["User"])).partition(":")
    entry = service.get("entrypoint", image.get("Entrypoint") or [])
    arguments = [*entry, *service.get("command", image.get("Cmd") or [])]
    mounts = _mounts(service, sources)
    if service.get("init"):
        arguments = ["/sbin/docker-init", "--", *arguments]
        init = {"destination": "/sbin/docker-init", "type": "bind", "source": str(_INIT), "options": ["bind", "ro"]}
        mounts.append(init)
    kinds = ["pid", "ipc", "uts", "mount", "cgroup"]
    network: dict[str, str] = {"type": "network"} | ({"path": str(namespace)} if namespace else {})
    memory = size(service["mem_limit"])
    given = [f"{key}={value}" for key, value in service.get("environment", {}).items()]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": int(user), "gid": int(group or user)},
            "args": arguments,
            "env": [*image["Env"], *given],
            "cwd": image.get("WorkingDir") or "/",
            "capabilities": {key: [] for key in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "rlimits": [
                {"type": f"RLIMIT_{key.upper()}", "soft": n, "hard": n} for key, n in service["ulimits"].items()
            ],
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": service["read_only"]},
        "hostname": "container",
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds] + [network],
            "resources": {"memory": {"limit": memory, "swap": memory}, "pids": {"limit": service["pids_limit"]}},
            "seccomp": seccomp(json.loads(_PROFILE.read_text())),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


class Containers:
    """The running containers of one Compose file; `prefix` starts their names."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._started: list[str] = []
        (folder / "logs").mkdir()

    def log(self, name: str) -> Path:
        """Path of a container's output."""
        return self._folder / "logs" / f"{name}.log"

    def _runc(self, *words: str) -> list[str]:
        return ["runc", "--root", str(self._folder / "runc"), *words]

    def _written(self, name: str, config: Mapping[str, Any]) -> str:
        place = self._folder / "bundles" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(json.dumps(config))
        return str(place)

    def run(self, name: str, config: Mapping[str, Any]) -> str:
        """Run a container to its end and return what it printed.

        Raises:
            RuntimeError: It failed; the message holds what it printed.
        """
        command = self._runc("run", "--bundle", self._written(name, config), f"{self._prefix}{name}")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {shlex.join(config['process']['args'])}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, name: str, config: Mapping[str, Any]) -> None:
        """Start a service in the background."""
        place = self._written(name, config)
        with open(self.log(name), "ab") as log:
            command = self._runc("run", "--detach", "--bundle", place, f"{self._prefix}{name}")
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._started.append(name)

    def command(self, name: str, *words: str) -> list[str]:
        """The command that executes `words` in a running service."""
        return self._runc("exec", f"{self._prefix}{name}", *words)

    def execute(self, name: str, *words: str) -> str:
        """Execute a command in a running service and return what it printed.

        Raises:
            RuntimeError: It failed; the message holds what it printed.
        """
        done = subprocess.run(self.command(name, *words), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {shlex.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def await_health(self, name: str, check: list[str], wait_s: float = 120.0) -> None:
        """Repeat the health check of a service until it succeeds."""
        end = time.monotonic() + wait_s
        while subprocess.run(self.command(name, *check[1:]), capture_output=True).returncode:
            if time.monotonic() > end:
                raise RuntimeError(f"{name} is not healthy after {wait_s:.0f} s: {self.log(name).read_text()[-3000:]}")
            time.sleep(1)

    def stop(self) -> None:
        """End all services, as `docker compose stop` does: SIGTERM, then SIGKILL after the grace period."""
        for name in self._started:
            subprocess.run(self._runc("kill", f"{self._prefix}{name}", "TERM"), capture_output=True)
        end = time.monotonic() + 40
        for name in self._started:
            while time.monotonic() < end and '"running"' in self._state(name):
                time.sleep(0.2)
            subprocess.run(self._runc("delete", "--force", f"{self._prefix}{name}"), capture_output=True)
        self._started.clear()
        shutil.rmtree(self._folder / "bundles", ignore_errors=True)

    def _state(self, name: str) -> str:
        return subprocess.run(self._runc("state", f"{self._prefix}{name}"), capture_output=True, text=True).stdout
