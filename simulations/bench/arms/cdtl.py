"""`cdtl simulate` as a person starts it, with an ear on its progress: when each round began.

python -m simulations.bench.arms.cdtl JOB_FOLDER OUT SAID.json [KEY=VALUE ...]
"""

import atexit
import json
import runpy
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdtl_core.system.progress import listen

__all__ = ["main"]


def main() -> None:
    """Play the job; as the command ends, say when rounds began, first losses, the test AUROC and bytes that crossed."""
    job, out, said = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    settings = [part for setting in sys.argv[4:] for part in ("--set", setting)]
    starts: list[float] = []
    cpu: list[float] = []

    def hear(fields: Mapping[str, object]) -> None:
        if "rounds" in fields and "round" in fields:
            starts.append(time.monotonic())
            cpu.append(time.process_time())

    atexit.register(_say, out, said, starts, cpu)
    sys.argv = ["cdtl", "simulate", str(job / "config.toml"), "--out", str(out), *settings]
    with listen(hear):
        runpy.run_module("cdtl_core.cli.main", run_name="__main__")  # as the command does; nothing imports the cli


def _say(out: Path, said: Path, starts: list[float], cpu: list[float]) -> None:
    if not (out / "report.json").exists():
        return
    from cdtl_core.federation.journal import read_journal  # the command has loaded it, and decided how

    first = read_journal(out / "rounds.jsonl")[0].rounds[0]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    method = report["methods"][0]
    words = {
        "starts": starts,
        "cpu": cpu,
        "losses": {site: values.get("train_loss") for site, values in first.sites.items()},
        "auroc": {site["name"]: _auroc(site["results"][method]) for site in report["sites"]},
        "bytes": {site["name"]: site["bytes_per_round"].get(method) for site in report["sites"]},
    }
    said.write_text(json.dumps(words), encoding="utf-8")


def _auroc(result: Mapping[str, Any]) -> float | None:
    value = result["auroc"]
    found: float | None = value["value"] if isinstance(value, Mapping) else value
    return found


if __name__ == "__main__":
    main()
