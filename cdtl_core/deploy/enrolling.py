"""A site's folder: its settings, its key, and its enrolment file."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cdtl_core.config import RunConfig, SiteConfig
from cdtl_core.config.folders import ENROLMENT_FILE, SITE_FILE
from cdtl_core.config.settings import save_toml
from cdtl_core.data.listing.folders import list_folders
from cdtl_core.data.source import write_manifest
from cdtl_core.deploy.enrolment import Enrolment, make_enrolment, save_enrolment
from cdtl_core.deploy.filter import CERTIFICATE_FILE
from cdtl_core.deploy.keys import KEY_FILE, load_key, make_key
from cdtl_core.errors import CheckpointError, ConfigError, DataError, did_you_mean
from cdtl_core.site.cohort import contract_of, open_cohort
from cdtl_core.system.durable import replace_bytes

__all__ = ["check_labels", "enrol_site", "label_map_of", "make_site", "place_data"]


def make_site(home: Path, site: SiteConfig) -> None:
    """Write ``site.toml`` of a new site, or replace it while the site has no key.

    Raises:
        CheckpointError: The folder holds a site that has been enrolled.
    """
    if (home / SITE_FILE).exists() and (home / KEY_FILE).exists():
        raise CheckpointError(f"{home / SITE_FILE} exists: edit it and run cdtl site init {home} without options.")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    save_toml(home / SITE_FILE, site.model_dump(mode="json", exclude_defaults=True, exclude_none=True))


def place_data(
    home: Path, source: Path, *, patient_pattern: str = "", tell: Callable[[str], None] = lambda _: None
) -> dict[str, str]:
    """Return the `data` settings of a source: a manifest, a folder with a manifest, or class folders.

    The manifest of class folders is written to the site's folder, since the images' folder may be read-only.

    Args:
        home: The site's folder.
        source: Where the images are.
        patient_pattern: Where the patient is in an image's path: a template, or a regular expression with a group.
        tell: Gets how the images were read, and what was left out.

    Raises:
        DataError: The source is none of these, or it is not clear which folders are the labels.
        ConfigError: The new site's folder is the images' folder.
    """
    source = source.expanduser().absolute()
    if source.resolve() == home.resolve() and not (home / SITE_FILE).exists():
        raise ConfigError(
            f"{home} is the folder of the images, and a site needs a folder of its own for its key and its models: "
            f"give a new one, for example {home}-site."
        )
    manifest = source if source.is_file() else source / "manifest.csv"
    if manifest.exists():
        tell(f"The images were read as {manifest} lists them.")
        return {"root": str(manifest.parent), "manifest": manifest.name}
    if not source.is_dir():
        raise DataError(f"{source} does not exist: give a manifest.csv or a folder of images.")
    found = list_folders(source, patient_pattern)
    for text in (f"The images were read as {found.layout}.", *found.notes):
        tell(text)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_manifest(home / "manifest.csv", found.rows)
    return {"root": str(home.absolute()), "manifest": "manifest.csv"}


def label_map_of(pairs: Sequence[str], ignored: Sequence[str]) -> dict[str, str]:
    """Return `data.label_map` of the options ``--map YOURS=THEIRS`` and ``--ignore YOURS``.

    Raises:
        ConfigError: An option is malformed, or two of them are about the same label.
    """
    found: dict[str, str] = {}
    for own, task in [*(pair.partition("=")[::2] for pair in pairs), *((label, "") for label in ignored)]:
        if not own or (not task and own not in ignored):
            raise ConfigError(f"--map '{own}' is not YOURS=THEIRS: write for example --map Benigno=benign.")
        if own in found:
            raise ConfigError(f"the label '{own}' is mapped twice: keep one --map or --ignore for it.")
        found[own] = task
    return found


def check_labels(found: Sequence[str], label_map: Mapping[str, str], labels: Sequence[str]) -> None:
    """Refuse labels that the federation does not know, of images or in a map; the error holds the options to change.

    Args:
        found: Labels of the images.
        label_map: Local label to task label; empty text: left out.
        labels: The task's labels.

    Raises:
        ConfigError: A label is neither a task label nor mapped, or mapped to a label that the task does not have.
    """
    for own, task in label_map.items():
        if task and task not in labels:
            raise ConfigError(
                f"--map '{own}={task}': the federation has no label '{task}'{did_you_mean(task, labels)} one of "
                f"{', '.join(labels)}, and give the command again."
            )
    unknown = [one for one in found if one not in label_map and one not in labels]
    if not unknown:
        return
    by_case = {label.lower(): label for label in labels}
    near = {one: get_close_matches(one.lower(), by_case, n=1, cutoff=0.6) for one in unknown}
    options = [f"--map '{one}={by_case[match[0]]}'" if match else f"--ignore '{one}'" for one, match in near.items()]
    raise ConfigError(
        f"the images have the labels {', '.join(found)}, the federation predicts {', '.join(labels)}. Give the command "
        f"again with the word for each label, for example: {' '.join(options)}"
    )


def enrol_site(home: Path, config: RunConfig) -> Enrolment:
    """Read and split the site's images, make its key at the first call, and write ``enrolment.json``.

    Args:
        home: The site's folder, with its ``site.toml``.
        config: What is known of the federation: its labels.

    Raises:
        DataError: The images cannot be used, or the key is damaged.
        ConfigError: A setting is wrong.
    """
    contract = contract_of(home, open_cohort(home, config), config.task)
    key = load_key(home) if (home / KEY_FILE).exists() else make_key(home)
    enrolment = make_enrolment(key, contract, _certificate(home, key, contract.site))
    replace_bytes(home / CERTIFICATE_FILE, enrolment.certificate.encode())
    save_enrolment(home / ENROLMENT_FILE, enrolment)
    return enrolment


def _certificate(home: Path, key: ec.EllipticCurvePrivateKey, site: str) -> x509.Certificate | None:
    """Return the site's certificate, or a new one if it ends within a month; the coordinator admitted this certificate.

    Args:
        home: The site's folder.
        key: The site's key.
        site: The site's name.
    """
    try:
        found = x509.load_pem_x509_certificate((home / CERTIFICATE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    names = [name.value for name in found.subject]
    lasting = found.not_valid_after_utc > datetime.now(UTC) + timedelta(days=30)
    return found if lasting and names == [site] and found.public_key() == key.public_key() else None
