"""Paths of the files in a site's folder and in a run's folder.

::

    HOME/site.toml                       the site's settings
    HOME/site.key                        the site's key in Flower and TLS; secret
    HOME/patient.key                     key of patient pseudonyms; secret
    HOME/enrolment.json                  the application that the site sent to the coordinator
    HOME/approved.json                   runs whose code was handed over, as seen in the node
    HOME/audit.json                      the last `cdtl privacy audit --keep`
    HOME/cache/                          decoded images, features, phantoms; may be removed at any time
    HOME/splits/                         split of the patients, by pseudonym
    HOME/initial_weights/<hash>.safetensors
    HOME/memory/<federation>/            local files between rounds
    HOME/models/<federation>/            the model of a run, its card and its scores
    HOME/rounds/<federation>.jsonl       the site's own diary of its rounds
    HOME/privacy/                        the privacy ledger; in a simulation privacy/<federation>/
    HOME/used/                           used part of each approval, as the egress filter counts it

    RUN/config.toml                      settings of a simulation
    RUN/rounds.jsonl                     the journal
    RUN/report.json                      results of a simulation
    RUN/checkpoints/<method>/round-0003/
    RUN/ledgers-<method>.json            privacy ledgers of a simulation's sites; a coordinator has RUNS/ledgers.json
    RUN/sites/<site>/                    folders of a simulation's sites
    RUN/coordinator/                     the coordinator's folder of `cdtl try`
    RUN/enrolled.json, progress.json, outcome.json    of a deployed run

A federation is named by its run and method: ``demo-cdtl``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.config.schema import inside

__all__ = [
    "APPROVED_FILE",
    "AUDIT_FILE",
    "ENROLMENT_FILE",
    "MODEL_FILE",
    "NOTE_FILE",
    "SITE_FILE",
    "RunFolder",
    "SiteFolder",
    "federation_key",
    "new_folder",
]

SITE_FILE, ENROLMENT_FILE, APPROVED_FILE, AUDIT_FILE = "site.toml", "enrolment.json", "approved.json", "audit.json"
MODEL_FILE, NOTE_FILE = "model.safetensors", "model.json"
_DIARY = ".jsonl"


def federation_key(run: str, method: str) -> str:
    """Return the name of a run's method at a site."""
    return f"{run}-{method}"


@dataclass(frozen=True)
class SiteFolder:
    """A site's folder, `home`. An outside name that leads out of it raises `PrivacyError`."""

    home: Path

    @property
    def settings(self) -> Path:
        """``site.toml``."""
        return self.home / SITE_FILE

    @property
    def enrolment(self) -> Path:
        """The application that the site sent to the coordinator."""
        return self.home / ENROLMENT_FILE

    @property
    def approved(self) -> Path:
        """Runs whose code was handed over."""
        return self.home / APPROVED_FILE

    @property
    def audit(self) -> Path:
        """The last stored privacy audit."""
        return self.home / AUDIT_FILE

    @property
    def cache(self) -> Path:
        """Files that can be computed again."""
        return self.home / "cache"

    @property
    def features(self) -> Path:
        """Features of frozen backbones."""
        return self.cache / "features"

    @property
    def splits(self) -> Path:
        """Split of the patients."""
        return self.home / "splits"

    @property
    def privacy(self) -> Path:
        """The privacy ledger of all runs; in a simulation the folder of the ledgers of each."""
        return self.home / "privacy"

    @property
    def used(self) -> Path:
        """Used part of each approval, as the egress filter counts it."""
        return self.home / "used"

    @property
    def all_initial_weights(self) -> Path:
        """Folder of the initial weights of the last runs."""
        return self.home / "initial_weights"

    def initial_weights(self, sha256: str) -> Path:
        """Return the initial weights with this hash."""
        return inside(self.home, "initial_weights", f"{sha256}.safetensors")

    def memory(self, federation: str, *names: str) -> Path:
        """Return the folder of a federation's local files, or a file in it."""
        return inside(self.home, "memory", federation, *names)

    def ledger(self, federation: str) -> Path:
        """Return the privacy ledger of one federation of a simulation."""
        return inside(self.home, "privacy", federation)

    def model(self, federation: str) -> Path:
        """Return the folder of a run's model."""
        return inside(self.home, "models", federation)

    def models(self) -> list[Path]:
        """Return the folders of models by name."""
        return sorted(path.parent for path in (self.home / "models").glob("*/model.json"))

    def diary(self, federation: str) -> Path:
        """Return the site's own notes of its rounds."""
        return inside(self.home, "rounds", federation + _DIARY)

    def diaries(self) -> Iterator[tuple[str, Path]]:
        """Yield federation and diary of each federation that the site took part in."""
        yield from ((path.name.removesuffix(_DIARY), path) for path in sorted((self.home / "rounds").glob("*.jsonl")))


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, of a simulation or of a coordinator."""

    folder: Path

    @property
    def config(self) -> Path:
        """Settings of a simulation."""
        return self.folder / "config.toml"

    @property
    def journal(self) -> Path:
        """One line per round."""
        return self.folder / "rounds.jsonl"

    @property
    def report(self) -> Path:
        """Results of a simulation."""
        return self.folder / "report.json"

    @property
    def sites(self) -> Path:
        """Folder of the folders of a simulation's sites."""
        return self.folder / "sites"

    @property
    def enrolled(self) -> Path:
        """Contracts of the sites that a coordinator admitted."""
        return self.folder / "enrolled.json"

    @property
    def progress(self) -> Path:
        """Progress of a deployed run."""
        return self.folder / "progress.json"

    @property
    def outcome(self) -> Path:
        """Outcome of a deployed run."""
        return self.folder / "outcome.json"

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder of a trial."""
        return self.folder / "coordinator"

    def holds_simulation(self) -> bool:
        """Whether a simulation or a trial was started here."""
        return self.config.exists() and self.sites.is_dir()

    def holds_trial(self) -> bool:
        """Whether the sites were deployed as real processes: `cdtl try`."""
        return self.holds_simulation() and self.coordinator.is_dir()

    def site(self, name: str) -> SiteFolder:
        """Return the folder of a simulation's site."""
        return SiteFolder(self.sites / name)

    def checkpoints(self, method: str = "") -> Path:
        """Return the folder of a method's checkpoints, or of all methods' folders."""
        return self.folder / "checkpoints" / method

    def ledgers(self, method: str, *, deployed: bool) -> Path:
        """Return the record of sites' ledgers.

        Args:
            method: The method of a simulation.
            deployed: Over all runs of a coordinator.
        """
        return self.folder.parent / "ledgers.json" if deployed else self.folder / f"ledgers-{method}.json"


def new_folder(parent: Path, name: str) -> Path:
    """Return the first of ``name``, ``name-2``, ``name-3`` ... that does not exist."""
    number = 1
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder
