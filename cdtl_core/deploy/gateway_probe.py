"""Whether a gateway works, asked over TLS as sites and health probes ask it."""

import http.client
import ssl

from cdtl_core.deploy.gateway_config import GatewayConfig

__all__ = ["gateway_answers"]

_PATIENCE_S = 5.0
_HEALTHY, _UNAVAILABLE = 200, 503


def gateway_answers(config: GatewayConfig) -> bool:
    """Return whether a gateway passes requests on.

    It does if it says that the SuperLink is healthy: it learns that over the same connections that carry the sites'
    requests. If it says the contrary, it still works if the SuperLink really does not answer.

    Args:
        config: The gateway's; it must have a `probe_port`, or its own port on 127.0.0.1.
    """
    said = _health(config.probe_port or config.port)
    return said == _HEALTHY or (said == _UNAVAILABLE and _health(config.upstream_port) != _HEALTHY)


def _health(port: int) -> int:
    """Status of ``/health``; 0 without an answer. Nothing secret is sent and nothing is believed but the status."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=_PATIENCE_S, context=context)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
