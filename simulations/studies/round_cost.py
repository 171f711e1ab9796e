"""Cost of a federation round without training: cdtl's deployed stack against Flower's quickstart app.

    OMP_NUM_THREADS=1 python -m simulations.studies.round_cost [--rounds 6] [--repeats 2] [--out round_cost.json]

Both arms run on this machine, one after the other, `--repeats` times in turn: two sites and a 13 MB backbone
(EfficientNet-Lite0's size), on loopback. Seconds are those from one round's end to the next; the median is over all
rounds but the first of each run, which holds start-up and the first weights.

- **cdtl**: everything that hospitals run. Coordinator: SuperLink with node authentication, gateway with mutual TLS.
  Site: filter (approval, judgement of each reply), SuperNode, executor. One message per round carries training and the
  validation of what was received; differences travel as float16, down and up. A site takes one step of two
  images of 32 pixels: without it all differences would be zero. The seconds in ``rounds.jsonl``, which leave the
  checkpoint's out, are in the JSON too.
- **Flower**: what `flwr new` writes for PyTorch, less its data and training: stock FedAvg with a train and an evaluate
  message per round, torch imported at the top, weights as float32 both ways, changed a little so that they do travel.
  SuperLink and SuperNodes with Flower's own defaults, without TLS and without authentication, state in memory: each
  the cheaper choice for Flower. Once with the same network as ours, timm's EfficientNet-Lite0, whose 294 tensors are
  600 objects for Flower (ours packs them into one array), and once with the same 13 MB in ten plain tensors.

Both ratios are printed; the bar is for the same network in both arms. Exit code 1 if that ratio is above it.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import tomli_w

from cdtl_core.flower import CONNECTION, Flower, await_health, flower_environment
from cdtl_core.system.processes import ProcessGroup, free_port
from simulations.studies.quickstart import write_app

BAR = 0.15
SITES = {"alba": "ultrasound", "bari": "histology"}
DEADLINE_S = 900.0
RUN = {
    "name": "cost",
    "image": {"size": 32},
    "model": {"weights": "random"},
    "train": {"steps": 1, "batch_size": 2, "refresh_norms": False},
    "model_selection": {"enabled": False},
}


class Arm:
    """Seconds of each measured round (`own`: as the arm's own log has them), a round's bytes to and from one site."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs: list[list[float]] = []
        self.own: list[list[float]] = []
        self.down = self.up = 0

    @property
    def seconds(self) -> list[float]:
        """Return the seconds of all runs."""
        return [value for run in self.runs for value in run]

    @property
    def median(self) -> float:
        """Seconds a round."""
        return statistics.median(self.seconds)


def play_cdtl(folder: Path, rounds: int, arm: Arm) -> None:
    """Enrol two sites of phantoms, play a run through the deployed programs, read its rounds."""
    coordinator, port = folder / "coordinator", free_port()
    authority, run = coordinator / "tls" / "ca.crt", coordinator / "runs" / "cost"
    _cdtl("server", "init", coordinator, "--name", "localhost", "--host", "127.0.0.1", "--port", port)
    (folder / "cost.toml").write_text(tomli_w.dumps({**RUN, "federation": {"rounds": rounds}}))
    with _services() as start:
        start(folder / "coordinator.log", "server", "start", coordinator)
        for site, modality in SITES.items():
            home = folder / site
            _cdtl("site", "init", home, "--name", site, "--modality", modality, "--phantom", 8)
            _cdtl("server", "admit", coordinator, home / "enrolment.json", "--yes")
            start(folder / f"{site}.log", "site", "start", home, "--server", f"localhost:{port}", "--ca", authority)
        _cdtl("server", "run", coordinator, folder / "cost.toml", "--yes", "--no-wait")
        for site in SITES:
            _cdtl("site", "approve", folder / site, run / "request.json", "--yes")
        ends: list[float] = []

        def over() -> bool:
            ends.extend([time.monotonic()] * (len(_lines(run / "rounds.jsonl")) - len(ends)))
            return (run / "outcome.json").exists()

        _await(over, f"the run's end, see {coordinator / 'logs'}")
    lines = _lines(run / "rounds.jsonl")
    measured = [line for line in lines if line.get("sites") and line["round"] > 1]
    if len(measured) != rounds - 1 or any(len(line["sites"]) != len(SITES) for line in measured):
        raise SystemExit(f"not every site took part in every round: {(run / 'outcome.json').read_text()}")
    arm.runs.append([after - before for before, after in pairwise(ends[:rounds])])
    arm.own.append([line["seconds"] for line in measured])
    one = measured[-1]["sites"]["alba"]
    arm.down, arm.up = one["bytes_received"], one["bytes_sent"]


def play_flower(folder: Path, rounds: int, arm: Arm, model: str) -> None:
    """Write the quickstart app, play it with Flower's own programs and defaults, read the notes it makes."""
    app, notes, home = folder / "app", folder / "notes.jsonl", folder / "flower"
    write_app(app, model, notes, rounds)
    port, first, second = free_port(), free_port(), free_port()
    (folder / "empty").mkdir()
    home.mkdir()
    connection = {"address": f"127.0.0.1:{port}", "insecure": True}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}}))
    environment = flower_environment({"FLWR_HOME": home})
    environment.pop("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", None)  # ours, not Flower's default
    flower, group = Flower(environment, folder / "empty"), ProcessGroup(environment, folder / "empty")
    try:
        link = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        group.start("SuperLink", link, folder / "superlink.log")
        await_health(f"http://127.0.0.1:{port}", timeout_s=60, log=folder / "superlink.log")
        for number, own in enumerate((first, second)):
            node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(own)]
            group.start(
                f"node {number}", [*node, "--node-config", f"partition-id={number}"], folder / f"node{number}.log"
            )
        run, answer = flower.submit(app, folder / "settings.toml")
        if not run:
            raise SystemExit(f"Flower did not take the app: {answer}")
        _await(lambda: len(_lines(notes)) == rounds + 1, f"the run's end, see {folder / 'superlink.log'}")
    finally:
        group.kill()
    found = _lines(notes)
    arm.runs.append([after["at"] - before["at"] for before, after in pairwise(found[1:])])
    arm.down, arm.up = 2 * found[-1]["bytes"], found[-1]["bytes"]


def main() -> int:
    """Play the arms in turn, print the table, write the figures; 1 if the bar is missed."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that what was started ends too
    arms = {"cdtl": Arm("cdtl, deployed")}
    arms |= {model: Arm(f"Flower, {text}") for model, text in (("backbone", "same network"), ("plain", "ten tensors"))}
    chosen = [options.only] if options.only else list(arms)
    with tempfile.TemporaryDirectory(prefix="round-cost-", ignore_cleanup_errors=True) as place:
        for turn in range(options.repeats):
            for name in chosen:
                folder = (options.keep or Path(place)) / f"{name}{turn}"
                folder.mkdir(parents=True)
                if name == "cdtl":
                    play_cdtl(folder, options.rounds, arms[name])
                else:
                    play_flower(folder, options.rounds, arms[name], name)
                seconds = " ".join(f"{value:.2f}" for value in arms[name].runs[-1])
                print(f"turn {turn + 1}, {name}: {seconds}", flush=True)
    return _report({name: arms[name] for name in chosen}, options.out)


def _report(chosen: dict[str, Arm], out: Path) -> int:
    arms = list(chosen.values())
    print(f"\n{'':20} {'s/round':>8} {'fastest':>8} {'slowest':>8} {'rounds':>7} {'MB down':>8} {'MB up':>8}")
    for arm in arms:
        spread = f"{arm.median:8.2f} {min(arm.seconds):8.2f} {max(arm.seconds):8.2f} {len(arm.seconds):7d}"
        print(f"{arm.name:20} {spread} {arm.down / 1e6:8.1f} {arm.up / 1e6:8.1f}")
    figures: dict[str, object] = {
        arm.name: {
            "median_s": arm.median,
            "runs_s": arm.runs,
            "own_s": arm.own,
            "bytes_down": arm.down,
            "bytes_up": arm.up,
        }
        for arm in arms
    }
    ratios = {}
    if "cdtl" in chosen:
        ratios = {name: chosen["cdtl"].median / arm.median for name, arm in chosen.items() if name != "cdtl"}
    for name, ratio in ratios.items():
        print(f"cdtl to {chosen[name].name}: {ratio:.2f}")
    figures |= {"ratios": ratios, "bar": BAR, "cores": os.cpu_count()}
    out.write_text(json.dumps(figures, indent=1) + "\n")
    if "backbone" not in ratios:
        return 0
    print(f"bar {BAR} for the same network: {'missed' if ratios['backbone'] > BAR else 'met'}")
    return int(ratios["backbone"] > BAR)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="of each run; the first is not measured")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each arm, in turn")
    parser.add_argument("--only", choices=("cdtl", "backbone", "plain"), help="measure one arm, for work on it")
    parser.add_argument("--keep", type=Path, help="keep the folders of the runs here")
    parser.add_argument("--out", type=Path, default=Path("round_cost.json"), help="where the figures go, as JSON")
    return parser.parse_args()


def _cdtl(*arguments: object) -> None:
    done = subprocess.run(_command(arguments), capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise SystemExit(f"cdtl {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}")


def _command(arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "cdtl_core.cli.main", *map(str, arguments)]


@contextmanager
def _services() -> Iterator[Callable[..., None]]:
    """Start cdtl's services in the background; all are ended with the block, the last started first."""
    running: list[subprocess.Popen[bytes]] = []

    def start(log: Path, *arguments: object) -> None:
        with open(log, "ab") as file:
            running.append(subprocess.Popen(_command(arguments), stdout=file, stderr=file))

    try:
        yield start
    finally:
        for service in reversed(running):
            service.send_signal(signal.SIGTERM)
        for service in running:
            try:
                service.wait(30)
            except subprocess.TimeoutExpired:
                service.kill()


def _await(seen: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not seen():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {DEADLINE_S:.0f} s for {what}")
        time.sleep(0.05)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
