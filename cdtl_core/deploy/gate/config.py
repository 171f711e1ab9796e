"""What a gate is told at its start."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdtl_core.errors import ConfigError

__all__ = ["GateConfig", "load_gate_config"]

_Port = Field(ge=1, le=65535)


class GateConfig(BaseModel):
    """Where a gate listens, whom it talks to, and where it keeps what it knows.

    Attributes:
        home: The site's folder: ``approvals/``, ``pending/``, ``logs/egress.jsonl``, ``gate.json``, ``asks.json``.
        settings: The site's `site.toml`; read anew at each decision, for its locks.
        port: On 127.0.0.1.
        certificate: For the SuperNode, PEM; its key beside it in `private_key`.
        upstream_host: The coordinator's name, as in its certificate.
        upstream_port: Of its gateway.
        ca: Who signs the coordinator's certificate, PEM; no other authority counts.
        client_certificate: The site's own TLS certificate, with `client_key`; none: the coordinator asks for none.
        proxy: Outbound proxy (``http://host:port``); the environment is not looked at.
        trusted_entities: File to write for ``flower-supernode --trusted-entities``.
        hold_s: The longest that the SuperNode's question for messages is kept open; its client gives up after 30 s.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path
    settings: Path
    port: int = _Port
    certificate: Path
    private_key: Path
    upstream_host: str = Field(min_length=1)
    upstream_port: int = _Port
    ca: Path
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: str | None = None
    trusted_entities: Path
    hold_s: float = Field(20.0, ge=0, le=25)

    @property
    def upstream(self) -> str:
        """The coordinator's URL."""
        host = f"[{self.upstream_host}]" if ":" in self.upstream_host else self.upstream_host
        return f"https://{host}:{self.upstream_port}"


def load_gate_config(path: Path) -> GateConfig:
    """Read a gate's configuration.

    Raises:
        ConfigError: The file is missing, or a field is unknown or wrong.
    """
    try:
        return GateConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"the gate's configuration {path} cannot be read ({error.strerror}): write it anew."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ConfigError(f"{field} in the gate's configuration {path}: {first['msg']}; correct it.") from None
