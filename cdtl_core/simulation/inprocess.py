"""A Flower Grid in one process: the real ServerApp calls the real ClientApp directly.

A message is handled when its reply is pulled, one at a time, so only one reply exists at a time. Results are
deterministic, and nodes can be taken offline.
"""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["InProcessGrid", "run_in_process", "run_on", "set_identity"]

_RUN_ID = 1
_FIRST_NODE = 101


class InProcessGrid(Grid):
    """Nodes are folders of sites; `offline` holds the ids of nodes that do not answer."""

    def __init__(self, app: ClientApp, homes: Iterable[Path], run_config: Mapping[str, object]) -> None:
        self._app = app
        self._contexts = {node: _context(node, home, run_config) for node, home in enumerate(homes, _FIRST_NODE)}
        self._pending: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        self.offline: set[int] = set()
        set_identity()

    def set_run(self, run: Run) -> None:
        """Do nothing: there is one run, known from the start."""

    @property
    def run(self) -> Run:
        """The only run."""
        return Run.create_empty(_RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node.

        Args:
            content: Its content.
            message_type: Flower's type.
            dst_node_id: The node.
            group_id: The round.
            ttl: Seconds to live.
        """
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of nodes that are online."""
        return [node for node in self._contexts if node not in self.offline]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes that are online, unnamed as in Flower's own simulation."""
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; each is handled when its reply is pulled."""
        ids = []
        for message in messages:
            name = f"message-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = name
            self._pending[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Handle the first of these messages that waits at an online node, and return its reply."""
        for name in message_ids:
            message = self._pending.get(name)
            if message is not None and message.metadata.dst_node_id not in self.offline:
                del self._pending[name]
                return [self._app(message, self._contexts[message.metadata.dst_node_id])]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return all replies of online nodes; `timeout` has no effect, since handling is synchronous."""
        del timeout
        waiting = list(self.push_messages(messages))
        replies: list[Message] = []
        while batch := list(self.pull_messages(waiting)):
            replies += batch
        return replies


def run_in_process(
    server: ServerApp, client: ClientApp, *, folder: Path, homes: Iterable[Path], settings: Mapping[str, object]
) -> None:
    """Run one federation: the server's files go to `folder`, each site's into its home.

    Args:
        server: The ServerApp.
        client: The ClientApp.
        folder: The server's folder.
        homes: The sites' folders.
        settings: The run's flat settings.

    Raises:
        CdtlError: As the server raises it.
    """
    run_on(InProcessGrid(client, homes, settings), server, folder, settings)


def run_on(grid: Grid, server: ServerApp, folder: Path, settings: Mapping[str, object]) -> None:
    """Run a ServerApp in this process over a grid.

    Args:
        grid: The sites.
        server: The ServerApp.
        folder: Its folder.
        settings: The run's flat settings.
    """
    server(grid, _context(1, folder, settings))


def set_identity() -> None:
    """Give this process the numbers that Flower's messages ask for."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, 1


def _context(node: int, home: Path, settings: Mapping[str, object]) -> Context:
    run_config: UserConfig = dict(settings)  # type: ignore[arg-type]
    return Context(
        run_id=_RUN_ID, node_id=node, node_config={"home": str(home)}, state=RecordDict(), run_config=run_config
    )
