"""Where everything is in a site's folder and in a run's folder.

::

    HOME/site.toml                       the site's settings
    HOME/site.key                        key of patient pseudonyms; secret
    HOME/enrolment.json                  what the site handed to the coordinator
    HOME/approved.json                   runs that the site approved
    HOME/audit.json                      the last `cdtl privacy audit --keep`
    HOME/cache/                          decoded images, features, phantoms; may be removed at any time
    HOME/splits/                         which patients train, validate and test, by pseudonym
    HOME/initial_weights/<hash>.safetensors
    HOME/memory/<federation>/            what the site remembers between rounds
    HOME/models/<federation>/            the model that a run left, its card and its scores
    HOME/rounds/<federation>.jsonl       the site's own diary of its rounds
    HOME/privacy/                        the privacy ledger; in a simulation privacy/<federation>/
    HOME/used/                           what is used of each approval, as the egress filter counts it

    RUN/config.toml                      settings of a simulation
    RUN/rounds.jsonl                     the journal
    RUN/report.json                      results of a simulation
    RUN/checkpoints/<method>/round-0003/
    RUN/ledgers-<method>.json            privacy ledgers of a simulation's sites; a coordinator has RUNS/ledgers.json
    RUN/sites/<site>/                    folders of a simulation's sites
    RUN/enrolled.json, progress.json, outcome.json    of a deployed run

A federation is named by its run and method: ``demo-cdtl``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdtl_core.config.schema import inside

__all__ = ["APPROVED_FILE", "AUDIT_FILE", "ENROLMENT_FILE", "SITE_FILE", "RunFolder", "SiteFolder", "federation_key"]

SITE_FILE, ENROLMENT_FILE, APPROVED_FILE, AUDIT_FILE = "site.toml", "enrolment.json", "approved.json", "audit.json"
_DIARY = ".jsonl"


def federation_key(run: str, method: str) -> str:
    """The name under which a site keeps what it remembers of a run."""
    return f"{run}-{method}"


@dataclass(frozen=True)
class SiteFolder:
    """A site's folder, `home`. A name that comes from elsewhere cannot lead out of it: `PrivacyError`."""

    home: Path

    @property
    def settings(self) -> Path:
        """``site.toml``."""
        return self.home / SITE_FILE

    @property
    def enrolment(self) -> Path:
        """What the site handed to the coordinator."""
        return self.home / ENROLMENT_FILE

    @property
    def approved(self) -> Path:
        """Runs that the site approved."""
        return self.home / APPROVED_FILE

    @property
    def audit(self) -> Path:
        """The last privacy audit that was kept."""
        return self.home / AUDIT_FILE

    @property
    def cache(self) -> Path:
        """What may be computed again."""
        return self.home / "cache"

    @property
    def features(self) -> Path:
        """Features of frozen backbones."""
        return self.cache / "features"

    @property
    def splits(self) -> Path:
        """Which patients train, validate and test."""
        return self.home / "splits"

    @property
    def privacy(self) -> Path:
        """The privacy ledger of all runs; in a simulation the folder of the ledgers of each."""
        return self.home / "privacy"

    @property
    def used(self) -> Path:
        """What is used of each approval, as the egress filter counts it."""
        return self.home / "used"

    @property
    def all_initial_weights(self) -> Path:
        """Folder of the initial weights of the last runs."""
        return self.home / "initial_weights"

    def initial_weights(self, sha256: str) -> Path:
        """The initial weights with this hash."""
        return inside(self.home, "initial_weights", f"{sha256}.safetensors")

    def memory(self, federation: str, *names: str) -> Path:
        """What the site remembers of a federation, or a file in it."""
        return inside(self.home, "memory", federation, *names)

    def ledger(self, federation: str) -> Path:
        """The privacy ledger of one federation of a simulation."""
        return inside(self.home, "privacy", federation)

    def model(self, federation: str) -> Path:
        """The folder of the model that a run left."""
        return inside(self.home, "models", federation)

    def models(self) -> list[Path]:
        """Folders of models that runs left, by name."""
        return sorted(path.parent for path in (self.home / "models").glob("*/model.json"))

    def diary(self, federation: str) -> Path:
        """The site's own notes of its rounds."""
        return inside(self.home, "rounds", federation + _DIARY)

    def diaries(self) -> Iterator[tuple[str, Path]]:
        """Federation and diary, of all that the site took part in."""
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
        """One line a round."""
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
        """What a deployed run is doing."""
        return self.folder / "progress.json"

    @property
    def outcome(self) -> Path:
        """How a deployed run ended."""
        return self.folder / "outcome.json"

    def holds_simulation(self) -> bool:
        """Whether a simulation was begun here."""
        return self.config.exists() and self.sites.is_dir()

    def site(self, name: str) -> SiteFolder:
        """The folder of a simulation's site."""
        return SiteFolder(self.sites / name)

    def checkpoints(self, method: str = "") -> Path:
        """Folder of a method's checkpoints, or of all methods' folders."""
        return self.folder / "checkpoints" / method

    def ledgers(self, method: str, *, deployed: bool) -> Path:
        """What is known of sites' ledgers: over all runs of a coordinator, or of one method of a simulation."""
        return self.folder.parent / "ledgers.json" if deployed else self.folder / f"ledgers-{method}.json"
