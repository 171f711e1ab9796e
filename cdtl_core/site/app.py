"""Flower's ClientApp: the boundary where a site's errors become fixed sentences without its data.

torch is imported inside the handlers, because Flower imports this module in processes that train nothing.
"""

import os
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from cdtl_core.errors import CdtlError, FederationError, reply_error
from cdtl_core.system.durable import disk_fault
from cdtl_core.system.foreign import get_logger
from cdtl_core.system.program import set_thread_defaults

set_thread_defaults()
app = ClientApp()
_log = get_logger("cdtl.site")


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Return the site's introduction."""
    return _answer("describe_site", message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round; the reply also has validation figures of the received weights."""
    return _answer("train_round", message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Select and store the site's model at the end of a run."""
    return _answer("finish_run", message, context)


def _answer(action: str, message: Message, context: Context) -> Message:
    """Reply, or reply with an error: its kind and a fixed sentence leave, its text stays in the site's log.

    Args:
        action: Handles the message.
        message: Flower's message.
        context: Flower's context.
    """
    try:
        from cdtl_core.config.settings import unflatten
        from cdtl_core.site import session

        act = getattr(session, action)
        return Message(act(message.content, _home(context), unflatten(context.run_config)), reply_to=message)
    except CdtlError as error:
        _log.error("%s", error, extra={"site": _name(context), "exit_code": error.exit_code})
        return _refusal(message, type(error))
    except OSError as error:
        fault = disk_fault(error)
        _log.error("%s", fault, extra={"site": _name(context), "exit_code": fault.exit_code})
        return _refusal(message, type(fault))
    except Exception:
        _log.exception("unexpected failure", extra={"site": _name(context), "exit_code": CdtlError.exit_code})
        return _refusal(message, CdtlError)


def _refusal(message: Message, kind: type[CdtlError]) -> Message:
    return Message(Error(*reply_error(kind)), reply_to=message)


def _name(context: Context) -> str:
    return Path(str(context.node_config.get("home", context.node_id))).name


def _home(context: Context) -> Path:
    """Return the site's folder, from the node or, in Flower's own simulation, by the number of this node."""
    if "CDTL_HOME" in os.environ:
        return Path(os.environ["CDTL_HOME"])
    if "home" in context.node_config:
        return Path(str(context.node_config["home"]))
    if "partition-id" in context.node_config and "CDTL_SITES" in os.environ:
        homes = sorted(path for path in Path(os.environ["CDTL_SITES"]).iterdir() if path.is_dir())
        return homes[int(context.node_config["partition-id"])]
    raise FederationError("this node has no site folder: start it with cdtl.")
