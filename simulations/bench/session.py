"""One call of the benchmark: its jobs, played in turn by the arms that the chosen rows need, each once for all rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cdtl_core.errors import CdtlError
from simulations.bench.job import JOBS, prepare
from simulations.bench.program import Run, play, python_program
from simulations.bench.ratio import alternate
from simulations.bench.row import Play, Row

__all__ = ["Session"]

_ARMS = "simulations.bench.arms"
_LIKENESS = 1e-3
_LONG = "train"
_ALL_FROM, _FEW = 5, 2


@dataclass
class Session:
    """Data that the rows share.

    Attributes:
        folder: Scratch.
        runs: Of each arm.
        nvflare: The Python of an environment that has NVFlare; None: that arm says that it was not played.
        say: Told what is under way.
    """

    folder: Path
    runs: int
    nvflare: Path | None = None
    say: Callable[[str], None] = lambda _: None
    _played: dict[Play, list[Run]] = field(default_factory=dict)

    def play_for(self, rows: Iterable[Row]) -> None:
        """Play what these rows need, the arms of a job in turn."""
        needs = dict.fromkeys(need for row in rows for need in row.needs if need not in self._played)
        for job in dict.fromkeys(job for job, _ in needs):
            arms = {arm: self._arm(job, arm) for of, arm in needs if of == job and self._can(arm)}
            for arm, runs in alternate(arms, self.runs_of(job)).items():
                self._played[job, arm] = runs
            _check_same_work(self._played.get((job, "bare"), []), self._played.get((job, "cdtl"), []))

    def plays(self, job: str, arm: str) -> list[Run]:
        """The runs of an arm; none if it can't be played here."""
        if (job, arm) not in self._played and self._can(arm):
            self._played[job, arm] = [self._arm(job, arm)() for _ in range(self.runs_of(job))]
        return self._played.get((job, arm), [])

    @property
    def long_runs(self) -> int:
        """Runs of an arm that takes a minute or more: two, unless five or more are asked for."""
        return self.runs if self.runs >= _ALL_FROM else min(self.runs, _FEW)

    def runs_of(self, job: str) -> int:
        """Runs of each arm of a job."""
        return self.long_runs if job == _LONG else self.runs

    def job(self, name: str) -> Path:
        """A job's folder, written when it is first asked for."""
        folder = self.folder / name
        if not (folder / "job.json").exists():
            self.say(f"preparing the job {name}")
            prepare(JOBS[name], folder)
        return folder

    def _can(self, arm: str) -> bool:
        return arm != "nvflare" or self.nvflare is not None

    def _arm(self, job: str, arm: str) -> Callable[[], Run]:
        return partial(self._once, job, arm)

    def _once(self, job: str, arm: str) -> Run:
        folder = self.job(job)
        command = _commands(folder, self.nvflare)[arm]
        run = play(command, memory=job == "memory", BENCH_JOB=folder, **_QUIET)
        self.say(f"{job}, {arm}: {run.wall_s:.1f} s, {run.cpu_s:.1f} s of processors, {run.peak_pss / 1e6:.0f} MB")
        return run


_QUIET: dict[str, Any] = {
    "FLWR_TELEMETRY_ENABLED": 0,
    "RAY_USAGE_STATS_ENABLED": 0,
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": 0,
}
_QUIET["RAY_ADDRESS"] = "local"  # Ray would join the cluster that a killed program has noted as running


def _commands(folder: Path, nvflare: Path | None) -> Mapping[str, list[str]]:
    return {
        "bare": python_program(f"{_ARMS}.bare", folder, "{said}"),
        "floor": python_program(f"{_ARMS}.floor", folder, "{folder}/out", "{said}"),
        "cdtl": python_program(f"{_ARMS}.cdtl", folder, "{folder}/out", "{said}"),
        "ray": python_program(f"{_ARMS}.flower"),
        "nvflare": python_program(f"{_ARMS}.flare", python=str(nvflare)),
    }


def _check_same_work(bare: Sequence[Run], cdtl: Sequence[Run]) -> None:
    """The first round's losses of both arms agree: same images, same draws, same steps."""
    for plain, own in zip(bare, cdtl, strict=False):
        for site, loss in plain.said["losses"].items():
            found = own.said["losses"][site]
            if found is not None and not abs(found - loss) <= _LIKENESS * abs(loss):
                raise CdtlError(f"the arms did not do the same work: {site} has a first loss of {found}, bare {loss}.")
