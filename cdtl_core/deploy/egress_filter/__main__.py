"""``python -m cdtl_core.deploy.egress_filter CONFIG.json``: run a site's egress filter until SIGTERM or SIGINT."""

import signal
import sys
from pathlib import Path

import uvicorn

from cdtl_core.deploy.egress_filter.app import build_app
from cdtl_core.deploy.egress_filter.config import load_filter_config
from cdtl_core.deploy.egress_filter.seal import Seal
from cdtl_core.deploy.link import SOCKET, Link
from cdtl_core.errors import CdtlError
from cdtl_core.system.foreign import log_to_stderr, visible


def main(arguments: list[str]) -> int:
    """Run an egress filter; returns the process's exit code."""
    log_to_stderr("%(asctime)s %(name)s %(levelname)s %(message)s")
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m cdtl_core.deploy.egress_filter CONFIG.json\n")
        return 2
    try:
        config = load_filter_config(Path(arguments[0]))
        seal = Seal()
        app = build_app(config, seal)
        seal.publish(Link(config.link, config.link_mode))  # before the node can connect
    except CdtlError as error:
        sys.stderr.write(f"{visible(error)}\n")
        return error.exit_code
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn stops and raises the signal again; this makes it a clean exit
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            uds=str(config.link / SOCKET),
            ssl_certfile=config.certificate,
            ssl_keyfile=config.private_key,
            access_log=False,
            log_config=None,
            ws="none",
            timeout_graceful_shutdown=3,  # ends a question that is kept open for the SuperNode
        )
    )
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
