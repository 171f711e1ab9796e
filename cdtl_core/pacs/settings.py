"""Settings of a PACS, `pacs.toml`: its address, its limits, and what the site allows. Nothing secret is in it."""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from cdtl_core.config.settings import read_toml
from cdtl_core.config.training import Settings
from cdtl_core.config.validation import validated
from cdtl_core.errors import ConfigError

__all__ = ["DicomwebConfig", "DimseConfig", "PacsConfig", "load_pacs"]

_PATHS = ("ca_file", "certificate", "certificate_key", "password_file", "token_file")


def _ae_title(value: str) -> str:
    title = value.strip()
    if not 0 < len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ValueError("an AE title has 1 to 16 ASCII characters and no backslash")
    return title


AeTitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Tls(Settings):
    """Files of TLS, relative to the settings file."""

    ca_file: Path | None = None
    """Certificates that vouch for the PACS (PEM); without it the system's."""
    certificate: Path | None = None
    """Certificate with which the site shows who it is (PEM), if the PACS asks for one."""
    certificate_key: Path | None = None
    """Its private key; only its owner may read the file."""

    @model_validator(mode="after")
    def _both_or_none(self) -> "_Tls":
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("certificate and certificate_key belong together: give both or none")
        return self


class DicomwebConfig(_Tls):
    """A PACS that speaks DICOMweb."""

    url: str = Field(examples=["https://pacs.example.org/dicom-web"])
    """Address of its DICOMweb service, below which `studies` is."""
    user: str | None = None
    """User of basic authentication."""
    password_file: Path | None = None
    """File with the password on its first line; only its owner may read it."""
    password_env: str | None = None
    """Environment variable with the password."""
    token_file: Path | None = None
    """File with a bearer token; only its owner may read it."""
    token_env: str | None = None
    """Environment variable with a bearer token."""

    @property
    def credentials(self) -> tuple[Path | str, ...]:
        """The places of secrets that are set."""
        all_of = (self.password_file, self.password_env, self.token_file, self.token_env)
        return tuple(one for one in all_of if one is not None)

    @model_validator(mode="after")
    def _consistent(self) -> "DicomwebConfig":
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("url must be like https://pacs.example.org/dicom-web")
        if "@" in parts.netloc:
            raise ValueError("url must not hold a password: use user with password_file or password_env")
        if len(self.credentials) > 1:
            raise ValueError("give one of password_file, password_env, token_file and token_env")
        if bool(self.user) != bool(self.password_file or self.password_env):
            raise ValueError("user and its password belong together: set password_file or password_env")
        if self.credentials and parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError("credentials would travel unencrypted: use an https address")
        return self


class DimseConfig(_Tls):
    """A PACS that speaks DIMSE, the protocol of AE titles and ports."""

    host: str = Field(min_length=1, examples=["pacs.example.org"])
    """Its name or address."""
    port: Port = Field(examples=[11112])
    """Its port."""
    ae_title: AeTitle = Field(examples=["PACS"])
    """Its AE title."""
    own_ae_title: AeTitle = "CDTL"
    """The AE title of this site, which the PACS must know."""
    tls: bool = False
    """Connect by TLS, in both directions."""
    receive_address: str = "127.0.0.1"
    """Address of this machine to which the PACS sends images after a C-MOVE."""
    receive_port: Port | None = None
    """Port for them; the PACS must know it together with `own_ae_title`."""

    @model_validator(mode="after")
    def _tls_is_on(self) -> "DimseConfig":
        if not self.tls and (self.ca_file or self.certificate):
            raise ValueError("ca_file and certificate need tls = true")
        return self


class PacsConfig(Settings):
    """A PACS, how much of its time is used, and what the site allows."""

    protocol: Literal["dicomweb", "c-get", "c-move"]
    """How images are fetched."""
    dicomweb: DicomwebConfig | None = None
    dimse: DimseConfig | None = None
    key_folder: Path = Path()
    """Folder of `patient.key`, the key of all hashes, relative to this file: the site's folder."""
    downloads: int = Field(4, ge=1, le=16)
    """Studies that are fetched at the same time."""
    studies_per_minute: float | None = Field(None, gt=0, examples=[30.0])
    """Most studies per minute."""
    mb_per_minute: float | None = Field(None, gt=0, examples=[600.0])
    """Most megabytes per minute, on average over some studies."""
    window: str | None = Field(None, examples=["20:00-06:00"])
    """Time of day at which studies are fetched, by the clock of this machine."""
    timeout_s: float = Field(30.0, gt=0, le=3600)
    """Longest silence of the PACS, in seconds."""
    patience_s: float = Field(120.0, ge=0, le=86400)
    """How long a study is tried again while the PACS cannot be reached, in seconds."""
    devices: tuple[str, ...] = Field((), examples=[["LOGIQ 7"]])
    """Names of device models that are kept; any other becomes a keyed hash."""
    predict: bool = False
    """Allow `cdtl predict` to read studies from the PACS."""
    store: bool = False
    """Allow `cdtl predict --store` to write results to the PACS."""

    @model_validator(mode="after")
    def _has_its_peer(self) -> "PacsConfig":
        table = "dicomweb" if self.protocol == "dicomweb" else "dimse"
        if getattr(self, table) is None:
            raise ValueError(f'protocol = "{self.protocol}" needs the table [{table}]')
        if self.store and self.dicomweb is None:
            raise ValueError("store = true needs the table [dicomweb]: results are stored by STOW-RS")
        return self

    @model_validator(mode="after")
    def _can_receive(self) -> "PacsConfig":
        own = self.dimse
        if self.protocol != "c-move" or own is None:
            return self
        if own.receive_port is None:
            raise ValueError('protocol = "c-move" needs dimse.receive_port, at which the images arrive')
        if _is_loopback(own.receive_address) and not _is_loopback(own.host):
            raise ValueError(
                f"the PACS cannot reach dimse.receive_address ({own.receive_address}): set it to this machine's address"
            )
        if own.tls and not own.certificate:
            raise ValueError("dimse.tls needs a certificate: after a C-MOVE the PACS connects to this machine")
        return self

    @model_validator(mode="after")
    def _window_is_one(self) -> "PacsConfig":
        from cdtl_core.pacs.pace import Window

        if self.window is not None:
            Window.parse(self.window)
        return self

    @property
    def trust_note(self) -> str:
        """What a C-MOVE without `dimse.ca_file` trusts, as a warning; empty if a certificate or nothing arrives."""
        if self.protocol != "c-move" or self.dimse is None or self.dimse.ca_file:
            return ""
        return (
            f"without dimse.ca_file, port {self.dimse.receive_port} trusts any program that gives the AE title "
            f"{self.dimse.ae_title}, which proves nothing: let a firewall admit the PACS alone, or set tls and ca_file."
        )

    @property
    def address(self) -> str:
        """The PACS in words, without anything secret."""
        if self.protocol == "dicomweb" and self.dicomweb:
            return self.dicomweb.url
        return f"{self.dimse.ae_title} at {self.dimse.host}:{self.dimse.port}" if self.dimse else ""


def load_pacs(path: Path) -> PacsConfig:
    """Read the settings of a PACS; paths in them are relative to the file's folder.

    Raises:
        ConfigError: The file is missing or not TOML, or a setting is unknown or ill-typed.
    """
    tree = read_toml(path)
    for secret in ("password", "token"):
        if any(secret in table for table in (tree, *_tables(tree))):
            raise ConfigError(
                f"{path} holds a {secret}: write it into a file that only its owner can read, and name the file in "
                f"{secret}_file."
            )
    if isinstance(tree.get("key_folder", ""), str):
        tree["key_folder"] = str(path.parent / tree.get("key_folder", ""))
    for table in _tables(tree):
        table |= {name: str(path.parent / table[name]) for name in _PATHS if isinstance(table.get(name), str)}
    return validated(PacsConfig, tree, str(path))


def _tables(tree: dict[str, Any]) -> list[dict[str, Any]]:
    return [tree[name] for name in ("dicomweb", "dimse") if isinstance(tree.get(name), dict)]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
