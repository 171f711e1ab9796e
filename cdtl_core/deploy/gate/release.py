"""Give a node back to the coordinator: a SuperNode that was killed would be refused for a minute after its return."""

from base64 import b64encode
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from cdtl_core.deploy.gate.config import GateConfig
from cdtl_core.deploy.gate.egress_log import EgressLog
from cdtl_core.deploy.gate.status import read_status
from cdtl_core.deploy.gate.upstream import tls_context
from cdtl_core.errors import ConfigError

__all__ = ["node_headers", "release_node"]


def release_node(config: GateConfig, node_key: Path) -> bool:
    """Deactivate the node of the last gate's state at the coordinator; call it before a SuperNode is started.

    Args:
        config: The gate's; it need not run.
        node_key: The site's P-384 private key, in OpenSSH format.

    Returns:
        Whether the coordinator confirmed it; False also if there is no such node or nobody answers.

    Raises:
        ConfigError: The key or a certificate cannot be used.
    """
    node_id = read_status(config.home).get("node_id")
    if not node_id:
        return False
    body, log = DeactivateNodeRequest(node_id=int(node_id)).SerializeToString(), EgressLog(config.home)
    log.count("deactivate-node", len(body))
    log.flush()
    with httpx.Client(verify=tls_context(config), proxy=config.proxy, trust_env=False, timeout=3.0) as client:
        try:
            url = f"{config.upstream}/v1/fleet/deactivate-node"
            return client.post(url, content=body, headers=node_headers(node_key)).status_code == 200
        except httpx.HTTPError:
            return False


def node_headers(node_key: Path) -> dict[str, str]:
    """The headers of a request that this site's key signs now.

    Raises:
        ConfigError: The file is missing or holds no such key.
    """
    try:
        key = load_ssh_private_key(node_key.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the site's key {node_key} cannot be read ({type(error).__name__}): restore it.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"the site's key {node_key} is no P-384 key: restore the one that was enrolled.")
    stamp = now().isoformat()
    return {
        "content-type": "application/protobuf",
        "accept": "application/protobuf",
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        TIMESTAMP_HEADER: stamp,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, stamp.encode("ascii"))).decode(),
    }
