"""`cdtl simulate` as a person starts it, with an ear on its progress: when each round began.

python -m simulations.bench.arms.cdtl JOB_FOLDER OUT SAID.json [KEY=VALUE ...]
"""

import json
import runpy
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdtl_core.federation.journal import read_journal
from cdtl_core.system.program import set_thread_defaults
from cdtl_core.system.progress import listen

__all__ = ["main"]


def main() -> None:
    """Play the job and say when rounds began, the first losses, the test AUROC and the bytes that crossed."""
    job, out, said = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    settings = [part for setting in sys.argv[4:] for part in ("--set", setting)]
    starts: list[float] = []
    cpu: list[float] = []

    def hear(fields: Mapping[str, object]) -> None:
        if "rounds" in fields and "round" in fields:
            starts.append(time.monotonic())
            cpu.append(time.process_time())

    set_thread_defaults()
    sys.argv = ["cdtl", "simulate", str(job / "config.toml"), "--out", str(out), *settings]
    with listen(hear):
        try:
            runpy.run_module("cdtl_core.cli.main", run_name="__main__")  # as the command does; nothing imports the cli
        except SystemExit as ended:
            if ended.code:
                raise
    first = read_journal(out / "rounds.jsonl")[0].rounds[0]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    method = report["methods"][0]
    losses = {site: values.get("train_loss") for site, values in first.sites.items()}
    words = {
        "starts": starts,
        "cpu": cpu,
        "losses": losses,
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
