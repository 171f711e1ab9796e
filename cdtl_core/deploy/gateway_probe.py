"""Health check of a gateway over TLS, as sites and health probes do it."""

import http.client
import ssl

from cdtl_core.deploy.gateway_config import GatewayConfig

__all__ = ["gateway_answers"]

_PATIENCE_S = 5.0
_HEALTHY, _UNAVAILABLE = 200, 503


def gateway_answers(config: GatewayConfig) -> bool:
    """Return whether a gateway forwards requests.

    It does if it reports a healthy SuperLink, because it checks that over the connections that carry the sites'
    requests. If it reports an unhealthy one, it still works if the SuperLink really does not answer.

    Args:
        config: The gateway's configuration, with a `probe_port` or its own port on 127.0.0.1.
    """
    said = _health(config.probe_port or config.port)
    return said == _HEALTHY or (said == _UNAVAILABLE and _health(config.upstream_port) != _HEALTHY)


def _health(port: int) -> int:
    """Return the status of ``/health``; 0 without an answer. Only the status is used, and nothing secret is sent."""
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
