"""`make images`: build every target, list its contents, attack it, run a study; exit code 1 for any fault."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from cdtl_core.errors import CdtlError
from tests.images import probe
from tests.images.build import TARGETS, Store, check_machine
from tests.images.contents import contents, faults
from tests.images.study import Study, steps

ROOT = Path(__file__).parents[2]
OUTSIDE = "192.0.2.1"  # a documentation address (RFC 5737)
MOST_BYTES = {
    "coordinator": 2_000_000_000,
    "site": 2_000_000_000,
    "simulation": 2_200_000_000,
}  # for a CPU; Ray is 0.2 GB


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def described(store: Store, target: str, out: Path, torch: str) -> list[str]:
    """Print what is in an image, write the whole lists to `out`, return what is wrong."""
    root = store.mounted(target)
    found = contents(root)
    (out / f"{target}.txt").write_text("\n".join([*found.packages, "", *found.distributions, ""]))
    say(f"\n{target}: {found.bytes / 1e6:,.0f} MB in files, {len(found.packages)} packages of Debian,")
    say(f"  {len(found.distributions)} of Python (lists: {out / target}.txt)")
    for place, size in sorted(found.folders.items(), key=lambda one: -one[1])[:8]:
        say(f"  {size / 1e6:7,.0f} MB  {place}")
    say(f"  files with setuid or setgid: {', '.join(found.elevated) or 'none'}")
    say(f"  paths that user 10001 may write: {', '.join(found.writable) or 'none'}")
    say(f"  compilers, pip, download tools: {', '.join(found.tools) or 'none'}")
    if torch == "gpu":
        return [line for line in faults(found) if "for a CPU" not in line]
    return faults(found) + ([f"{target} holds {found.bytes} bytes"] if found.bytes > MOST_BYTES[target] else [])


def confined(study: Study, name: str) -> list[str]:
    """Try from inside a service what it must not be able to do; returns what it could, in sentences."""
    own = {port.network for port in study.ports if port.service == name}
    near = {port.address.split("/")[0] for port in study.ports if port.network in own}
    every = [port.address.split("/")[0] for port in study.ports] + [OUTSIDE]
    source = Path(probe.__file__).read_text()
    found: dict[str, Any] = json.loads(study.containers.execute(name, "python", "-c", source, *every))
    secret = study.keys_of_others(name)
    opened = [at for at, how in found["reached"].items() if how == "open"]
    say(f"  {name}: opens {', '.join(opened) or 'nothing'} of {len(every)} addresses, others' keys: {len(secret)},")
    say(f"    writing: {found['written']}")
    wrong = [f"reads {secret[one]} as {at}" for one, at in found["hashes"].items() if one in secret]
    if study.compose["services"][name].get("network_mode") == "none":  # the half of a site that runs approved code
        wrong += [f"has the interface {device}" for device in found["interfaces"] if device != "lo"]
    if name != "coordinator":
        wrong += [f"listens on {at}" for at in found["listening"]]
    return [f"{name} {line}" for line in [*wrong, *judged(found, near)]]


def judged(found: dict[str, Any], near: set[str]) -> list[str]:
    """Return the forbidden abilities of a probe, for any service; `near`: addresses of its own networks."""
    status, reached, written = found["status"], found["reached"], found["written"]
    wrong = [f"reaches {at}" for at, how in reached.items() if how != "unreachable" and at not in near]
    wrong += [f"cannot reach {at}" for at in near if reached[at] == "unreachable"]
    wrong += [f"writes {at}" for at, how in written.items() if how == "written" and at not in ("/tmp/x", "/state/x")]
    wrong += [f"has {key} {value}" for key, value in status.items() if key.startswith("Cap") and int(value, 16)]
    if (status["NoNewPrivs"], status["Seccomp"]) != ("1", "2"):
        wrong.append("may gain rights, or call the kernel unfiltered")
    if found["user"] != [10001, 10001, []]:
        wrong.append(f"runs as {found['user']}")
    return wrong


def played(store: Store) -> list[str]:
    """Play the README, then attack the running containers; returns what is wrong."""
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    study = Study(compose, store)
    try:
        for words in steps((ROOT / "docker" / "README.md").read_text()):
            say(f"  {' '.join(words)[:110]}")
            study.play(words)
        say(study.await_end())
        say("Confinement, tried from inside:")
        wrong = [line for name in compose["services"] for line in confined(study, name)]
        say(study.containers.execute("coordinator", "cdtl", "server", "status", "/state/coordinator"))
        return wrong
    except BaseException:
        for path in sorted((store.folder / "docker" / "logs").iterdir()):
            say(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}")
        say(study.containers.execute("coordinator", "tail", "-n", "60", "/state/coordinator/logs/run.log"))
        raise
    finally:
        study.stop()


def main() -> int:
    """Do it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", choices=["cpu", "gpu"], default="cpu", help="gpu: all of NVIDIA's libraries too")
    parser.add_argument("--driver", choices=["overlay", "vfs"], default="overlay", help="buildah's storage driver")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "images", help="folder for the lists of packages")
    given = parser.parse_args()
    try:
        check_machine()
    except CdtlError as error:
        say(str(error))
        return error.exit_code
    given.out.mkdir(parents=True, exist_ok=True)
    store = Store(Path(tempfile.mkdtemp(prefix="cdtl-images-")), given.driver)
    began, wrong = time.monotonic(), []
    try:
        digest = store.base()
        say(f"base: Debian by debootstrap, sha256:{digest}")
        for target in TARGETS:
            store.build(ROOT, target, digest, given.torch)
            wrong += described(store, target, given.out, given.torch)
        say("\nA study in the containers, step by step as in docker/README.md:")
        wrong += played(store)
    finally:
        store.remove()
    say(f"\n{time.monotonic() - began:.0f} s; " + ("WRONG:\n" + "\n".join(wrong) if wrong else "nothing wrong"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
