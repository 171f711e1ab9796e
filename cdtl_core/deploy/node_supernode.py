"""Flower's SuperNode, with shorter waits: ``python node_supernode.py ARGUMENTS`` takes those of ``flower-supernode``.

Flower looks for the app's reply twice a second, and asks again for a part of a message that has not arrived after a
whole second. In a short round these pauses take longer than the work. The file is run by its path, like
``node_main.py``, and needs nothing else of cdtl.
"""

import time
from functools import partial
from types import SimpleNamespace

_REPLY_S, _PART_S = 0.05, 0.05
_FLOWERS_REPLY_S = 0.5


def main() -> None:
    """Shorten the waits, then run Flower's SuperNode."""
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    soon = partial(pull_objects, initial_backoff=_PART_S)  # doubles with each try, as before
    start_client_internal.pull_objects = soon  # type: ignore[attr-defined]
    start_client_internal.time = SimpleNamespace(sleep=_wait)  # type: ignore[attr-defined, assignment]
    flower_supernode()


def _wait(seconds: float) -> None:
    time.sleep(_REPLY_S if seconds == _FLOWERS_REPLY_S else seconds)


if __name__ == "__main__":
    main()
